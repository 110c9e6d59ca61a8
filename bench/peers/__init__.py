"""The peers: one file each, one row here, in the order in which they take turns."""

from bench.peers.bare import Bare
from bench.peers.base import Peer
from bench.peers.dovecot import Dovecot
from bench.peers.haproxy import Haproxy
from bench.peers.imapproxy import Imapproxy
from bench.peers.nginx import Nginx
from bench.peers.ours import Dialogue, Ours, Stripped
from bench.peers.perdition2 import Perdition2

PEERS: tuple[Peer, ...] = (
    Nginx(), Dovecot(), Haproxy(), Imapproxy(), Perdition2(),
    Bare(), Stripped(), Dialogue(), Ours(),
)  # fmt: skip
