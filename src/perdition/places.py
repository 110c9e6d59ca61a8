"""Where the programs of one host find each other, unless options say otherwise."""

RUN_FOLDER = "/run/perdition"  # of pid files and control sockets
CONTROL_SUFFIX = ".sock"  # a control socket is NAME.PID.sock
