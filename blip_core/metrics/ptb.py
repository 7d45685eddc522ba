# ruff: noqa: RUF001  # quotation marks and dashes of all kinds are what this is about
"""Captions -> the tokens that the official caption metrics count.

pycocoevalcap splits captions with the Penn Treebank tokenizer of Stanford CoreNLP 3.4.1, in Java. This does the same
for English captions in Python. It is written from what that program answers, not from its source; the tests hold it to
those answers, and `docs/evaluation.md` says what differs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest

_PUNCTUATION = "'' ' `` ` . ? ! , : - -- ... ; \" — …"
PUNCTUATION = frozenset(_PUNCTUATION.split())
"""What pycocoevalcap drops. Brackets stay: it would drop `-LRB-` but gets `-lrb-`."""

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
SIGNS = {
    "¢": "cents", "£": "#", "€": "$", "¤": "$", "₠": "$", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
    "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip

_SAME = str.maketrans(
    dict.fromkeys("“”«»›\x93\x94", '"')
    | dict.fromkeys("‘‛‹\x91", "`")
    | dict.fromkeys("–―\x96\x97", "—")
    | dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\ufe0f\ufeff", " ")
    | {"\x92": "’", "\u00ad": None}
)
_STRAIGHT = re.compile("n?’(?:[sdmt]|ll|re|ve)", re.IGNORECASE)  # others keep a curly apostrophe
_LETTER = r"(?:(?![²³¹¼-¾⁰⁴-⁹₀-₉⅐-↉①-⒛])[^\W\d_]|[\u0300-\u036f])"
_ALNUM = rf"(?:{_LETTER}|\d)"
_WORD = "[A-Za-z0-9]+"
_ENDING = r"['’](?:[sdm]|ll|re|ve)(?![^\W\d_])"
# What keeps its period wherever it stands, and what keeps it before a number.
_SHORT = (
    "[a-z]|adj|adm|adv|ala|alex|apr|ariz|assn|assoc|asst|atty|aug|ave|bhd|bldg|blvd|brig|bros|calif|capt|cf|cie|cmdr|"
    "col?|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|drs?|ens|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|govs?|hon|"
    "inc|ind|insp|invt|jan|jos|jr|jul|jun|kans?|ky|lieut|lt|ltd|maj|mar|md|mfg|mich|minn|mlle|mme|mon?|mont|mrs?|msg?|"
    r"msgr|mt|mtg|natl|neb|nev|nov|oct|okla|penn|pfc|ph|ph\.d|plc|pres|profs?|pte|pty|pvt|rd|reps?|rev|rt|sens?|sept?|"
    "seq|sfc|sgt|spc|sq|sr|ste?|supt|sys|tel|tenn|thurs?|treas|tues?|univ|va|vs|vt|wed|wisc?|wm|wyo"
)
_COUNTED = "art|ca|figs?|nos?|op|pp|prop"
_INITIALS = rf"{_LETTER}(?:\.{_LETTER})+\.?(?!{_LETTER})"
_PART = rf"(?:{_INITIALS}|{_WORD})"

# At each place the longest of these is the next token, of equal ones the first, as in a generated lexer. A pattern is
# as long as its group `ahead` reaches, if it has one.
_RULES = [
    re.compile(pattern)
    for pattern in (
        rf"(?i:(?:can(?=not)|gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na))(?=(?P<ahead>not|na|ta|me)(?!{_ENDING})))",
        rf"{_ALNUM}+?(?=(?P<ahead>[nN]['’`][tT]))",  # do|n't
        r"[nN]['’`][tT]|''",
        rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*",  # words, also st.louis and p.m
        rf"{_LETTER}{_ALNUM}*\.(?=[,:;])",
        rf"{_ALNUM}+(?:[-_\u2010\u2011]{_ALNUM}+)*",  # t-shirt, 10-foot
        rf"{_WORD}(?:-[A-Za-z]+){{0,2}}(?:/{_WORD}(?:-[A-Za-z]+){{0,2}}){{1,2}}",  # and/or, 24/7
        rf"(?:{_WORD}-)*{_INITIALS}(?:-{_PART})*",  # u.s., a.m.-p.m., anti-u.s.
        rf"(?i:{_SHORT})\.(?!{_LETTER})(?:-{_PART})*",
        rf"(?i:{_COUNTED})\.(?:(?=\s?\d)|(?:-{_PART})+)",  # no. 5
        r"[-+]?\d*(?:[.,:]\d+)+|[-+]?\d+",
        r"\d+-\d+/\d+",  # 1-1/2
        rf"\d+(?:[.,]\d+)+{_LETTER}*(?:-{_PART})+",  # 1,000-foot
        rf"(?:{_WORD}-)*[A-HJ-XZdlno]['’`]{_LETTER}{_ALNUM}+(?:-{_WORD})*",  # o'clock
        rf"(?i:{_LETTER}+[aeiouy]['’`][aeiou]{_LETTER}*|e['’`]er|nor['’`]easter|c['’]mon|s['’]mores|li['’]l|nat['’]l)",
        r"(?i:[djly]|ol)['’](?![sS](?!\w))",  # y'|all
        r"(?i:'(?:[sdm]|ll|re|ve)(?![^\W\d_])|'n(?![\w.])|’(?:[sdmn]|ll|re|ve))",
        r"(?i:['’](?:em|till?|cause)|'t(?=is|was)|['’]n['’])",
        r"['’](?:[2-9]0[sS]|\d\d(?!\S))",  # the '90s
        r"[A-Z]+(?:&[A-Z]+)+|(?:US|[AC])\$",
        r"[<>]?[:;=][-'o]?[()\[\]{DdPpO|\\@](?!\w)|:[30](?!\w)",  # a smile
        r"\(?(?:\^_\^|>_<|-_-|=_=)\)?",
        r"[\w.+-]*\w@\w(?:[\w.-]*\w)?|@[A-Za-z][A-Za-z0-9_]*|#[^\W\d_]+",
        r"(?i:https?)://[^\s<>|(){}.]+\.[^\s<>|(){}]*[^\s<>|(){}.!?,;:'-]",
        r"</?[A-Za-z][A-Za-z0-9-]*/?>",
        r"-{5,}|--+|\.{3,}|[?!]+|##+|\*\*+|@@+|__+|<<|>>|\\\*+|[cC]\+\+|&(?:amp|lt|gt);|&#\d+;",
        r"[!-/:-@\[-`{-~]|[—¡-©¬®-¶·-¿×÷‖-‗‚-‣…‰-⁂⁄⁰⁴-₎₠₤€℀-⅏⅓-⅞←-⯿、-。・！-／：-＠［-｠]",
    )
]


def ptb_tokens(caption: str) -> list[str]:
    """Return the tokens of a caption, in lower case, without punctuation."""
    tokens: list[str] = []
    chunks = caption.translate(_SAME).split()
    for chunk, after in zip_longest(chunks, chunks[1:], fillvalue=""):
        if chunk[-1] == "." and after[:1].isdecimal():  # "no. 5"
            tokens += _chunk_tokens(f"{chunk} 0")[:-1]
        else:
            tokens += _chunk_tokens(chunk)
    return tokens


@lru_cache(2**16)
def _chunk_tokens(chunk: str) -> tuple[str, ...]:
    """The tokens of a part between two spaces; captions have few different ones, so they are cached."""
    tokens, at = [], 0
    while at < len(chunk):
        reach, end = at, at + 1  # what matches no rule, such as an emoji, is skipped
        for rule in _RULES:
            if match := rule.match(chunk, at):
                length = match.end("ahead") if "ahead" in rule.groupindex else match.end()
                if length > reach:
                    reach, end = length, match.end()
        token = chunk[at:end] if reach > at else ""
        at = end
        if token and token not in PUNCTUATION and not re.fullmatch(r"-{2,4}|\.{3,}", token):
            if _STRAIGHT.fullmatch(token):
                token = token.replace("’", "'")
            token = SIGNS.get(token) or BRACKETS.get(token) or token.replace("(", "-lrb-").replace(")", "-rrb-").lower()
            tokens.append(token)
    return tuple(tokens)
