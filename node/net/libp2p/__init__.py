"""Neighbours over libp2p: messages on streams, on TCP + Noise + yamux.

**What it gives.** Noise proves the Ed25519 key at the other end, so a peer is its 32-byte key and nobody can
speak in its name. Messages to one neighbour arrive whole, in order, at most once. Delivery is never promised:
`send_failed` names what was waiting or being written when the connection ended, and whatever was written
shortly before a `peer_down` may be lost, too. Who is a member is the core's to check: anyone who knows the swarm's id
can connect.

**One connection per pair.** Both sides may dial at once. The peer with the lower key chooses: it keeps the
first connection, refuses another one within `SIMULTANEOUS_S`, and lets a later one replace it, since the
other side must have lost the old one. The peer with the higher key takes the connection on which the lower
one opens its messages stream. So one side decides, and two dials that cross never cut each other off. On each
connection each side opens one stream for what it says; `peer_up` comes when both are open. When any of it
ends, all of it does. The streams' protocol holds the swarm's id: with a node of another swarm the negotiation
fails, and the link ends for that reason.

**Relayed, then direct.** A link may run on a circuit (`circuits`). A direct connection that comes up beside it
succeeds it, and the peer stays up: what waits goes on on the new one, once what was being written is written; each side
reads the new one when it has read the old one to its end.

**What a peer can take** is bounded by `Limits` and the constants that head each file, whatever it sends. Whoever breaks a
rule loses its connection.

**Guests** (`guests`) are strangers that may identify, ping and listen to one topic. There are none, and no handlers for any
of it, unless the transport is given `guests`.

**libp2p 0.8.1** has faults, some of which let any stranger end the process. Each guard begins with "libp2p
0.8.1:" and names its fault, so that a later release can shed it. Left out, being open doors or bytes without
a use here: libp2p's own identify and ping, signed peer records, peer exchange, its dialling, its resource manager,
and gossipsub in the swarm: sums travel by announce and pull (`gossip.history.sync`).

Each file imports those above it, and nothing else of this package but types:

    terms        limits, figures and errors: all that others can import without loading libp2p, which takes seconds
    names        devices' ids and addresses, and libp2p's errors in words
    line         what a connection runs on: a socket, or a circuit
    holes        the one port that dials beyond this device's own networks leave from
    tcp          sockets whose bytes are counted, and who is let in
    host         libp2p's host, swarm, negotiation and yamux, guarded
    link         one connection to one peer
    visits       what strangers may ask, and how it is answered: manifest, ping, joining
    guests       strangers that may listen
    circuits     circuit relay, and the way from a circuit to a direct connection
    transport    the neighbours of a node, on all of that

Importing the package itself loads none of them.
"""
