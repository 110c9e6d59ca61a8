"""The peers: one file each, one row here, in the order in which they take turns."""

from bench.peers.base import Peer
from bench.peers.nginx import Nginx
from bench.peers.ours import Ours
from bench.peers.perdition2 import Perdition2

PEERS: tuple[Peer, ...] = (Nginx(), Perdition2(), Ours())
