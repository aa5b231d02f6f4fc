"""The typed fact table that the `facts` annotator checks sentences against: data, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping

from maskdpo_ray.records import Record

NAME = "name"
"""Shape of a kind whose values are names, written with a capital letter ("Kigali")."""
WORDS = "words"
"""Shape of a kind whose values may be written in lower case ("franc", "gas")."""
NUMBER = "number"
"""Shape of a kind whose values are numbers; only digits beside a trigger are read as a value."""
ENTITY = "entity"
"""Shape of a kind whose values are other entities of the table ("Uganda" as a neighbour)."""


class Value(Record):
    """One value of a kind, such as `Value("Rwandan franc", ("RWF", "franc"))`.

    Two values may share an alias: a sentence that says "franc" then names either of them.
    """

    name: str
    aliases: tuple[str, ...] = ()


class Kind(Record):
    """One kind of fact, and how a sentence that states one is recognised."""

    name: str
    """Key in `Entity.facts`, and the `kind` of a labelled sentence."""
    label: str
    """Name in evidence ("official language")."""
    triggers: tuple[str, ...]
    """Words that announce a fact of this kind. What follows is a claim even if its value is unknown."""
    cues: tuple[str, ...] = ()
    """Weaker words ("in", "is a"): a claim only together with a value of the lexicon."""
    unless_after: tuple[str, ...] = ()
    """Words before a trigger that make it another fact: the "former" capital, a "maritime" border."""
    lexicon: tuple[Value, ...] = ()
    """All known values. Entities are the lexicon of shape `ENTITY`."""
    closed_world: bool = True
    """Whether an entity's accepted values are all there are, so that any other value is false."""
    shape: str = NAME


class Entity(Record):
    """Subject of answers: a country, an element."""

    name: str
    aliases: tuple[str, ...] = ()
    adjectives: tuple[str, ...] = ()
    """"Rwandan": tells that "Burundian franc" is not any franc."""
    facts: Mapping[str, tuple[Value, ...]] = {}
    """Kind name -> accepted values. A kind that is absent or empty is not known and never matches."""
    place: tuple[float, float] | None = None
    """Degrees north and east of its centre, to check claims such as "to the north"."""


class FactTable(Record):
    """Everything that the annotator knows of a domain."""

    name: str
    kinds: tuple[Kind, ...]
    entities: tuple[Entity, ...]
    other_names: tuple[str, ...] = ()
    """Names that contain a value or an entity and mean something else ("African Union", "Lake Chad")."""
    other_nouns: tuple[str, ...] = ()
    """Nouns that tell that a name beside them is no entity ("Ocean", "River")."""
    generic: tuple[str, ...] = ()
    """Nouns true of every entity ("country", "element"): a sentence's subject by description."""
    plain_words: tuple[str, ...] = ()
    """Further words that claim nothing about any entity: "sovereign" of a country, "periodic" of an element."""
