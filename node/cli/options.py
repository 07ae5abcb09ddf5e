"""The options of the command line, each with what --help says of it."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

HomeOption = Annotated[
    Path | None, Parameter(help="The device's home; else GOSSAMER_HOME, else the user's data folder.")
]
NameOption = Annotated[str | None, Parameter(help="How the device is called in its own logs and tables.")]
JoinTaskOption = Annotated[
    str | None,
    Parameter(
        help="For a new home: what it trains, where the swarm's is a task of your own (package.module:attribute)."
    ),
]
TaskOption = Annotated[
    str, Parameter(help="What it trains: watch, digits, or your own as package.module:attribute.")
]
DataOption = Annotated[
    str | None, Parameter(help="Which part of the data it holds, such as subjects=3 or shard=2/10.")
]
ListenOption = Annotated[
    tuple[str, ...],
    Parameter(
        help="Where it listens, as /ip4/ADDRESS/tcp/PORT; may be repeated. By default on loopback, on any port.",
        negative="",
    ),
]
BootstrapOption = Annotated[
    tuple[str, ...],
    Parameter(
        help="A device to join through, as /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID; may be repeated.", negative=""
    ),
]
NearbyOption = Annotated[
    str | None,
    Parameter(
        help="The swarm on this network to join, by its name or id: see gossamer nearby. For a new home."
    ),
]
CodeArgument = Annotated[
    str | None, Parameter(help="What gossamer invite shows on the other device: its code, or its link.")
]
AskOption = Annotated[
    str | None,
    Parameter(help="Instead of a code: the swarm nearby at whose members to knock, by its name or id."),
]
UpOption = Annotated[
    bool, Parameter(name="--up", help="Start the node once it has joined.", negative="--no-up")
]
TtlOption = Annotated[str, Parameter(help="How long the invitation is open: 90s, 10m, 2h.")]
UsesOption = Annotated[
    int, Parameter(help="How many devices it lets in.", validator=validators.Number(gte=1, lte=64))
]
QrOption = Annotated[bool, Parameter(help="Show the link for a camera, too.", negative="")]
LetInOption = Annotated[
    bool, Parameter(name="--yes", help="Let in whoever knows the code, without asking.", negative="")
]
SwarmOption = Annotated[str | None, Parameter(help="The name of a swarm that this device founds.")]
AdmitOption = Annotated[
    Literal["open", "members", "invite", "ask"] | None,
    Parameter(
        help='Who may join a swarm that this device founds: "open": anybody; "invite": whom a member invites (gossamer invite); '
        '"ask": who knocks, too, once a member allows it.'
    ),
]
PeerArgument = Annotated[str, Parameter(help="A neighbour's peer id, or how it ends.")]
StrikeOption = Annotated[
    int | None,
    Parameter(
        help="The round from which on nothing counts that the device has given.",
        validator=validators.Number(gte=1),
    ),
]
AnyPeerArgument = Annotated[str, Parameter(help="A device's peer id, or how it ends.")]
YesOption = Annotated[bool, Parameter(alias="-y", help="Do not ask.", negative="")]
CountOption = Annotated[int, Parameter(help="Round trips.", validator=validators.Number(gte=1, lte=16))]
SecondsOption = Annotated[
    float, Parameter(help="How long to look.", validator=validators.Number(gte=1, lte=60))
]
DetachOption = Annotated[
    bool, Parameter(alias="-d", help="Start it in the background, and return when it is up.", negative="")
]
BackgroundOption = Annotated[bool, Parameter(negative="", show=False)]  # what --detach starts: it only logs
FileArgument = Annotated[Path | None, Parameter(help="A settings file, instead of the home's.")]
JsonOption = Annotated[bool, Parameter(help="Print JSON.", negative="")]
