"""Which changes leave a caption true: of its words, and of its video when that is mirrored."""

import re

import numpy as np

# What a mirror turns round: sides, turning, compass points, and everything that is read.
_SIDED = re.compile(
    r"""\b(
        left\w* | right\w* | (counter|anti)?-?clockwise | (north|south)?-?(east|west)(ern|erly|bound|wards?)?
      | starboard | portside | mirror\w* | asymmetr\w* | flipp?(ed|ing)?
      | texts? | letter\w* | words? | writ(e|es|ing|ten) | wrote | handwrit\w* | read(s|ing)? | spell\w* | say(s|ing)?
      | signs? | signage | signpost\w* | numbers? | numbered | numerals? | digit\w* | figures? | alphabet\w*
      | captions? | (sub)?titles? | logos? | labels? | labell?ed | brand\w* | font\w* | typograph\w* | inscri\w*
      | clocks? | watch(es)? | dials? | timer\w* | counter | calendars? | license | licence | plates?
      | newspapers? | books? | pages? | posters? | banners? | billboards? | menus? | maps? | flags? | scoreboards?
      | keyboards? | screens? | monitors?
      | links | linke[nrs]? | rechts | rechte[nrs]? | gauche | droite? | izquierd[ao] | derech[ao] | esquerd[ao]
      | direit[ao] | sinistr[ao] | destr[ao] | lewo | lewej | prawo | prawej | venstre | vasen | oikea | kiri | kanan
    )\b | \d | ["“”«»„]""",
    re.IGNORECASE | re.VERBOSE,
)
_LATIN = re.compile(r"[a-zA-Z]")
_FIRST_WORDS = frozenset(("a", "an", "the", "one", "two", "three", "some", "several", "many", "people", "there"))


def stays_true_when_flipped(caption: str) -> bool:
    """Whether a caption is as true of the mirror image: English (Latin letters only), and nothing sided in it.

    The list errs on the safe side: a flip not done costs nothing, and one done wrongly teaches a lie.
    """
    letters = [sign for sign in caption if sign.isalpha()]
    return bool(letters) and all(_LATIN.match(sign) for sign in letters) and not _SIDED.search(caption)


def vary_text(caption: str, rng: np.random.Generator) -> str:
    """The caption with its final full stop put or left out, or with a small first letter; half of the time unchanged.

    Only English article-like first words are made small, so names keep their capital. Another script is not touched.
    """
    change = rng.integers(4)
    if not caption.isascii() or change >= 2:
        return caption
    if change == 0 and caption.endswith(".") and not caption.endswith(".."):
        return caption[:-1]
    if change == 0 and caption[-1:].isalnum():
        return caption + "."
    first, space, rest = caption.partition(" ")
    return first.lower() + space + rest if change == 1 and first.lower() in _FIRST_WORDS else caption
