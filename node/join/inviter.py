"""How a stranger becomes a member: two state machines, the inviter's and the joiner's, that talk over one stream.

**The conversation.** J joins, I invites; every frame is a kind and a bounded body.

    J -> I  HELLO     version, way (code, link, knock), the invitation's number
    I -> J  WELCOME   swarm, H(I's share)                                         or DENIED with a reason, at any point
    J -> I  SHARE     X*        SPAKE2 (Abdalla and Pointcheval 2005; the library `spake2`, on the group of Ed25519)
    I -> J  SHARE     Y*
    J -> I  PROOF     MAC of the key, for this direction
    I -> J  PROOF     the same for the other direction
    J -> I  BOX       J's name
    I -> J  BOX       the manifest: at once for who proved a code or a link, to who knocks only once it is allowed
    I -> J  BOX       J's certificates, founder first, once a person at I has allowed it
    J -> I  BOX       "it is on my disk"

**Who learns what.** Noise has proven to each side the other's device key, and hides all from third parties. Before PROOF a
stranger learns that a number is open and the id of its swarm, which `nearby` announces. The names, the manifest and the
certificates are sealed under the agreed key, one single-use key for each box.

**A guess is online, and there is one.** A code is a number, which is no secret, and two words, 18 bits. SPAKE2 leaves whoever takes
part in one run one password to test, and whoever only listens none. J proves first: I shows nothing that depends on the
password before J has committed itself to its one guess, so a run that breaks off has tested nothing and costs nothing, and a wrong
PROOF burns the invitation, whatever other runs are under way. A false inviter tests one guess, too, at J, which then goes on to the
next device that knows the number, CLAIMANTS_MAX in all. A link has 128 bits, which nobody guesses: a wrong one burns nothing.

**What is bound.** The identities of the PAKE are each side's device key with swarm, number, way and version. So a man in the middle,
whose device keys are others than those the two sides see, makes two keys that differ, also if he relays every byte; a run cannot be
repeated into another swarm or invitation; a reflected share is refused by its side, a reflected proof by its direction.

**Check word.** One word of the agreed key, shown on both sides. For who knocks it is all there is, so it must not be steered: I is
bound to its share by H before it sees J's, and J shows its share before it sees I's. A man in the middle has then one try in
`len(WORDS)`, and each is seen by a person.

**What a stranger can do.** Begin ATTEMPTS_A_HOST conversations a minute from one address, ATTEMPTS_A_MINUTE in all: by numbers tried
at random it finds and burns one of 9,000 within ten minutes with a chance of 1.1 %, from many addresses 6.7 %, and to whom a
joiner shows a number (the devices it asks), it can burn that one at once: a new code is the answer, or a link. It may use up
the attempts of a minute, and others are told to wait. It cannot fill TALKS_MAX: whoever has proven nothing is cut off STEP_S
after it came, so there are at most ATTEMPTS_A_MINUTE of them and KNOCKS_MAX knocks.

The arithmetic of `spake2` is Python's and not constant-time: whoever measures microseconds through a scheduler and a network, of one
run, could in principle learn bits of one code that is used once.

States of I:  Greeting -> Sharing -> Proving -> Naming -> Deciding -> Certifying -> Storing     of J:  the same, seen from J
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

from spake2 import SPAKE2_B

from gossip.errors import GossamerError, MisuseError, PeerViolation
from node.join.codes import (
    CODE_WORDS,
    KNOCK,
    NUMBERS,
    SECRET_BYTES,
    TTL_S,
    VERSION,
    Secret,
    Way,
    code_text,
    link_text,
)
from node.join.conversation import (
    Action,
    Answered,
    Certified,
    Certify,
    Certifying,
    Closed,
    Deciding,
    End,
    Ending,
    Event,
    Greeting,
    Heard,
    Naming,
    Opened,
    Passed,
    Proving,
    Say,
    Sharing,
    State,
    Storing,
    Tell,
    Watched,
    Withdrawn,
)
from node.join.frames import (
    DECIDE_S,
    HEARD_BYTES,
    WORDS_OF,
    Applicant,
    Box,
    Chain,
    Constitution,
    Denied,
    Hello,
    Proof,
    Share,
    Stored,
    Welcome,
    Why,
    framed,
    read_text,
)
from node.join.pake import Keys, begin_pake, commitment_to
from node.join.words import WORDS
from node.ports import Entropy

INVITATIONS_MAX = 16  # open at once
ENDED_MAX = 64  # whose end is remembered, to tell who comes late
USES_MAX = 64
LEASE_S = 60.0  # an invitation that nobody watches for so long, and on which nobody waits, is withdrawn
TALKS_MAX = 96  # above ATTEMPTS_A_MINUTE and KNOCKS_MAX together: what is left is for who knows a code
KNOCKS_MAX = 8  # of those, waiting without a code
KNOCKS_A_HOST = 2
ATTEMPTS_A_HOST = 10  # conversations begun, within a minute
ATTEMPTS_A_MINUTE = 60
STEP_S = 10.0  # for an answer that needs no person
CLAIMANTS_MAX = 3  # devices nearby that a joiner shows a proof to


class TooManyInvitations(GossamerError):
    """So many invitations are open already: end one (Ctrl-C where it is shown), or let more devices use one (--uses)."""


# --- frames -----------------------------------------------------------------------------------------------------


# --- the inviter's side -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Invitation:
    number: int
    words: tuple[str, ...]
    secret: bytes
    ends_at: float
    uses: int  # how many more devices
    watched_at: float
    over: Ending | None = None  # for newcomers; who has proven itself before goes on
    admitted: dict[bytes, None] = field(default_factory=dict)  # at most USES_MAX; they may come again

    @property
    def code(self) -> str:
        return code_text(self.number, self.words)

    def link(self, addresses: Iterable[str]) -> str:
        return link_text(self.number, self.secret, addresses)

    def secret_of(self, way: Way) -> Secret:
        password = self.secret if way == "link" else "-".join(self.words).encode()
        return Secret(way, self.number, password)


@dataclass(slots=True)
class _Talk:
    id: int
    peer: bytes
    host: str
    until: float
    state: State = field(default_factory=Greeting)

    @property
    def number(self) -> int | None:
        """Of the invitation that it is about; None for a knock, and before it has said."""
        if isinstance(self.state, Greeting) or self.state.secret.way == "knock":
            return None
        return self.state.secret.number


class Inviter:
    """All invitations and knocks of one device. `handle(event, now) -> actions`."""

    def __init__(self, *, me: bytes, swarm: bytes, manifest: bytes, knocks: bool, entropy: Entropy) -> None:
        """`knocks`: whether the swarm lets devices ask without a code; `manifest` as it was signed."""
        self._me = me
        self._swarm = swarm
        self._manifest = manifest
        self._knocks = knocks
        self._entropy = entropy
        self._invitations: dict[int, Invitation] = {}  # at most INVITATIONS_MAX
        self._ended: dict[int, Ending] = {}  # at most ENDED_MAX
        self._talks: dict[int, _Talk] = {}  # at most TALKS_MAX
        self._attempts: deque[tuple[float, str]] = deque(maxlen=ATTEMPTS_A_MINUTE)  # when, and from where

    @property
    def busy(self) -> bool:
        """Whether time matters."""
        return bool(self._invitations or self._talks)

    @property
    def waiting(self) -> list[Tell]:
        """Who waits for a person's answer."""
        return [
            self._asks(talk, talk.state) for talk in self._talks.values() if isinstance(talk.state, Deciding)
        ]

    def invite(self, ttl_s: float, uses: int, now: float) -> Invitation:
        """A fresh one. TooManyInvitations; MisuseError for a life or a number of uses out of bounds."""
        if not (TTL_S[0] <= ttl_s <= TTL_S[1] and 1 <= uses <= USES_MAX):
            raise MisuseError(f"an invitation of {ttl_s} s for {uses} devices")
        if len(self._invitations) >= INVITATIONS_MAX:
            raise TooManyInvitations(
                f"{INVITATIONS_MAX} invitations are open; end one (Ctrl-C where it is shown), or give one more --uses"
            )
        number = NUMBERS[0]
        while number in self._invitations or number in self._ended or number == NUMBERS[0]:
            number = NUMBERS[0] + self._draw(NUMBERS[1] - NUMBERS[0] + 1)
        words = tuple(WORDS[self._draw(len(WORDS))] for _ in range(CODE_WORDS))
        made = Invitation(number, words, self._entropy(SECRET_BYTES), now + ttl_s, uses, now)
        self._invitations[number] = made
        return made

    def handle(self, event: Event, now: float) -> list[Action]:
        match event:
            case Opened():
                return self._opened(event, now)
            case Passed():
                return self._passed(now)
            case Watched(number):
                if number in self._invitations:
                    self._invitations[number].watched_at = now
                return []
            case Withdrawn(number):
                return self._withdrawn(number)
        talk = self._talks.get(event.talk)
        if talk is None:  # it left while somebody decided
            return []
        match event:
            case Heard(_, data):
                try:
                    return self._heard(talk, data, now)
                except PeerViolation:
                    return self._close(talk)
            case Closed():
                return self._close(talk)
            case Answered(_, allow):
                return self._answered(talk, allow, now)
            case Certified():
                return self._certified(talk, event, now)

    # --- one conversation ---------------------------------------------------------------------------------------

    def _opened(self, event: Opened, now: float) -> list[Action]:
        while self._attempts and self._attempts[0][0] <= now - 60:
            self._attempts.popleft()
        from_there = sum(1 for _, host in self._attempts if host == event.host)
        full = len(self._attempts) >= ATTEMPTS_A_MINUTE or len(self._talks) >= TALKS_MAX
        if full or from_there >= ATTEMPTS_A_HOST:
            return [Say(event.talk, framed(Denied("busy"))), End(event.talk)]
        self._attempts.append((now, event.host))
        self._talks[event.talk] = _Talk(event.talk, event.peer, event.host, now + STEP_S)
        return []

    def _heard(self, talk: _Talk, data: bytes, now: float) -> list[Action]:
        match talk.state:
            case Greeting():
                return self._greeted(talk, read_text(data, Hello, HEARD_BYTES), now)
            case Sharing(secret, ours, finish):
                keys = finish(read_text(data, Share, HEARD_BYTES))
                talk.state = Proving(secret, keys)
                return [Say(talk.id, framed(Share(ours)))]
            case Proving(secret, keys):
                return self._proved(talk, secret, keys, read_text(data, Proof, HEARD_BYTES), now)
            case Naming(secret, keys):
                return self._named(talk, secret, keys, read_text(data, Box, HEARD_BYTES), now)
            case Storing(secret, keys, name):
                keys.opened(read_text(data, Box, HEARD_BYTES), Stored)
                return self._joined(talk, name)
            case _:
                raise PeerViolation("speaks while a person decides")

    def _greeted(self, talk: _Talk, hello: Hello, now: float) -> list[Action]:
        if hello.version != VERSION:
            return self._deny(talk, "version")
        if hello.way == "knock":
            if not self._knocks:
                return self._deny(talk, "closed")
            hosts = [other.host for other in self._talks.values() if self._is_knock(other)]
            if len(hosts) >= KNOCKS_MAX or hosts.count(talk.host) >= KNOCKS_A_HOST:
                return self._deny(talk, "busy")
            secret = KNOCK
        else:
            invitation = self._invitations.get(hello.number)
            if invitation is None:
                return self._deny(talk, self._ended.get(hello.number, "unknown"))
            if why := self._closed_to(invitation, talk.peer, now):
                return self._deny(talk, why)
            secret = invitation.secret_of(hello.way)
        ours, finish = begin_pake(
            SPAKE2_B,
            joiner=talk.peer,
            inviter=self._me,
            swarm=self._swarm,
            secret=secret,
            entropy=self._entropy,
        )
        talk.state = Sharing(secret, ours, finish)
        return [Say(talk.id, framed(Welcome(self._swarm, commitment_to(ours))))]

    def _proved(self, talk: _Talk, secret: Secret, keys: Keys, proof: Proof, now: float) -> list[Action]:
        invitation = self._invitations.get(secret.number)
        if secret.way == "code" and (invitation is None or invitation.over):
            # Burnt or withdrawn since it was greeted: its proof is not looked at, or it were a second guess.
            return self._deny(talk, self._ending_of(secret.number))
        if not keys.proven("joiner", proof):
            if secret.way == "code" and invitation is not None:
                invitation.over = "burnt"
            told = Tell(talk.number, "wrong", talk.id, talk.peer) if talk.number is not None else None
            return [*([told] if told else []), *self._deny(talk, "wrong"), *self._conclude(secret.number)]
        talk.state = Naming(secret, keys)
        talk.until = now + STEP_S
        return [Say(talk.id, framed(keys.proof("inviter")))]

    def _named(self, talk: _Talk, secret: Secret, keys: Keys, box: Box, now: float) -> list[Action]:
        name = keys.opened(box, Applicant).name
        state = talk.state = Deciding(secret, keys, name)
        talk.until = now + DECIDE_S
        manifest: list[Action] = (
            [] if secret.way == "knock" else [Say(talk.id, framed(keys.sealed(Constitution(self._manifest))))]
        )
        invitation = self._invitations.get(secret.number)
        if (
            invitation is not None and talk.peer in invitation.admitted
        ):  # it was allowed before, and the line broke
            return [*manifest, *self._answered(talk, allow=True, now=now)]
        return [*manifest, self._asks(talk, state)]

    def _answered(self, talk: _Talk, allow: bool, now: float) -> list[Action]:
        match talk.state:
            case Deciding(secret, keys, name):
                pass
            case _:
                return []  # answered twice
        if not allow:
            told = Tell(talk.number, "refused", talk.id, talk.peer, name)
            return [told, *self._deny(talk, "refused")]
        invitation = self._invitations.get(secret.number)
        if secret.way != "knock":
            if invitation is None:
                return self._deny(talk, self._ending_of(secret.number))
            if talk.peer not in invitation.admitted:
                if not invitation.uses:
                    return self._deny(talk, "used")
                invitation.uses -= 1
                invitation.admitted[talk.peer] = None
        talk.state = Certifying(secret, keys, name)
        talk.until = now + STEP_S
        return [Certify(talk.id, talk.peer)]

    def _certified(self, talk: _Talk, issued: Certified, now: float) -> list[Action]:
        match talk.state:
            case Certifying(secret, keys, name):
                pass
            case _:
                return []
        if not issued.statements:
            if (invitation := self._invitations.get(secret.number)) is not None:
                invitation.uses += 1
                invitation.admitted.pop(talk.peer, None)
            told = Tell(talk.number, "refused", talk.id, talk.peer, name, why=issued.refusal)
            return [told, *self._deny(talk, "uncertified")]
        talk.state = Storing(secret, keys, name)
        talk.until = now + STEP_S
        said: list[Action] = [Say(talk.id, framed(keys.sealed(Chain(issued.statements))))]
        if secret.way == "knock":
            said.insert(0, Say(talk.id, framed(keys.sealed(Constitution(self._manifest)))))
        return [*said, Tell(talk.number, "allowed", talk.id, talk.peer, name)]

    def _joined(self, talk: _Talk, name: str) -> list[Action]:
        number = talk.number
        told = Tell(number, "joined", talk.id, talk.peer, name)
        del self._talks[talk.id]
        if number is not None and (invitation := self._invitations.get(number)) is not None:
            invitation.over = invitation.over or (None if invitation.uses else "used")
        return [told, End(talk.id), *self._conclude(number)]

    # --- how things end -----------------------------------------------------------------------------------------

    def _deny(self, talk: _Talk, why: Why) -> list[Action]:
        del self._talks[talk.id]
        return [Say(talk.id, framed(Denied(why))), End(talk.id), *self._conclude(talk.number)]

    def _close(self, talk: _Talk) -> list[Action]:
        """It broke off, or the rules."""
        del self._talks[talk.id]
        left = isinstance(talk.state, Deciding | Certifying | Storing)
        name = talk.state.name if isinstance(talk.state, Deciding | Certifying | Storing) else ""
        told: list[Action] = [Tell(talk.number, "left", talk.id, talk.peer, name)] if left else []
        return [*told, End(talk.id), *self._conclude(talk.number)]

    def _passed(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for talk in [talk for talk in self._talks.values() if now >= talk.until]:
            actions += (
                self._deny(talk, "unanswered") if isinstance(talk.state, Deciding) else self._close(talk)
            )
        for invitation in list(self._invitations.values()):
            if now >= invitation.ends_at:
                invitation.over = invitation.over or "expired"
            elif now >= invitation.watched_at + LEASE_S and not self._waits(invitation.number):
                invitation.over = invitation.over or "withdrawn"
            actions += self._conclude(invitation.number)
        return actions

    def _withdrawn(self, number: int) -> list[Action]:
        invitation = self._invitations.get(number)
        if invitation is None:
            return []
        invitation.over = invitation.over or "withdrawn"
        actions: list[Action] = []
        for talk in [talk for talk in self._talks.values() if talk.number == number]:
            if not isinstance(talk.state, Certifying | Storing):
                actions += self._deny(talk, "withdrawn")
        return [*actions, *self._conclude(number)]

    def _conclude(self, number: int | None) -> list[Action]:
        """An invitation is gone once it is over and nobody who proved its code is under way."""
        invitation = self._invitations.get(number or 0)
        if invitation is None or invitation.over is None or self._waits(invitation.number):
            return []
        del self._invitations[invitation.number]
        self._ended[invitation.number] = invitation.over
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        return [Tell(invitation.number, "ended", why=invitation.over)]

    # --- small questions ----------------------------------------------------------------------------------------

    def _closed_to(self, invitation: Invitation, peer: bytes, now: float) -> Why | None:
        if invitation.over:
            return invitation.over
        if now >= invitation.ends_at:
            return "expired"
        return None if invitation.uses or peer in invitation.admitted else "used"

    def _ending_of(self, number: int) -> Why:
        invitation = self._invitations.get(number)
        if invitation is not None and invitation.over is not None:
            return invitation.over
        return self._ended.get(number, "unknown")

    def _waits(self, number: int) -> bool:
        states = Deciding | Certifying | Storing
        return any(talk.number == number and isinstance(talk.state, states) for talk in self._talks.values())

    def _is_knock(self, talk: _Talk) -> bool:
        return not isinstance(talk.state, Greeting) and talk.state.secret.way == "knock"

    def _asks(self, talk: _Talk, state: Deciding) -> Tell:
        return Tell(talk.number, "asks", talk.id, talk.peer, state.name, state.keys.word)

    def _draw(self, count: int) -> int:
        """Uniform to 2^-48."""
        return int.from_bytes(self._entropy(8)) % count


# --- the joiner's side ------------------------------------------------------------------------------------------


assert set(WORDS_OF) == set(get_args(Why))
