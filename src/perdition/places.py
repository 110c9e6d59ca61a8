"""Where the programs of one host find each other, unless options say otherwise."""

RUN_FOLDER = "/run/perdition"  # of pid files and control sockets
HANDOVER = "PERDITION_HANDOVER"  # in the environment of a daemon's successor
CONTROL_SUFFIX = ".sock"  # a control socket is NAME.PID.sock
