"""A comparison as a person would say it: who is better, by how much, and what would settle it.

Next: `train/compare.py` (where the numbers come from).
"""

from collections.abc import Mapping
from typing import Any


def sentence(row: Mapping[str, Any], confidence: float) -> str:
    """The main finding in full."""
    scenes, t = row["scenes"], row["table"]
    differing = t["only_a"] + t["only_b"]
    rates = (
        f"A solved {t['both'] + t['only_a']} and B {t['both'] + t['only_b']} of {scenes} scenes "
        f"({percent(row['rate_a']['rate'])} and {percent(row['rate_b']['rate'])})."
    )
    if row["verdict"]:
        winner = row["verdict"].upper()
        won = t[f"only_{row['verdict']}"]
        return (
            f"{winner} is better: {rates} {differing} scenes came out differently and {winner} "
            f"won {won} of them (exact McNemar p = {p_words(row['p'])}). "
            f"{difference(row, confidence)}"
        )
    if differing == 0:
        told = "No scene came out differently."
    else:
        told = (
            f"{differing} of the {scenes} scenes came out differently, {t['only_b']} for B and "
            f"{t['only_a']} for A (exact McNemar p = {p_words(row['p'])})."
        )
    return (
        f"A and B cannot be told apart: {rates} {told} {difference(row, confidence)} "
        f"{could_have_shown(row)} {what_next(row)}".rstrip()
    )


def others_sentences(
    what: str, rows: Mapping[str, Mapping[str, Any]], confidence: float
) -> list[str]:
    """The findings per task or condition: those that differ one by one, the rest in a sentence.
    Their p-values are corrected for there being several."""
    told = [
        f"{name[0].upper()}{name[1:]}: {row['verdict'].upper()} is better ({row['scenes']} scenes, "
        f"A {percent(row['rate_a']['rate'])}, B {percent(row['rate_b']['rate'])}, corrected p = "
        f"{p_words(row.get('p_holm', row['p']))}). {difference(row, confidence)}"
        for name, row in rows.items()
        if row["verdict"]
    ]
    alike = [name for name, row in rows.items() if not row["verdict"]]
    if alike:
        if len(rows) == 1:
            where = f"In the {what}"
        else:
            where = f"In {len(alike) if told else 'none'} of the {len(rows)} {what}s"
        apart = (
            "can A and B be told apart"
            if not told and len(rows) > 1
            else ("A and B cannot be told apart")
        )
        named = f": {'; '.join(alike)}" if len(alike) <= 6 else ""
        told.append(f"{where} {apart}{named}.")
    return told


def looking_sentence(sequential: Mapping[str, Any]) -> str:
    """What stopping early would have saved; nothing if it would not have stopped early."""
    after, planned = sequential["decided_after"], sequential["planned"]
    if after is None or after == planned:
        return ""
    return (
        f"Had you looked after every scene, with {planned} planned, the sequential test would have "
        f"stopped after {after} with {sequential['verdict'].upper()} as the better one."
    )


def difference(row: Mapping[str, Any], confidence: float) -> str:
    """B minus A in points."""
    d = row["difference"]
    sure = f"{100 * confidence:g}"
    return (
        f"B minus A is {points(d['value'], sign=True)} "
        f"({sure} %: {points(d['low'], sign=True, unit=False)} to "
        f"{points(d['high'], sign=True, unit=False)})."
    )


def could_have_shown(row: Mapping[str, Any]) -> str:
    """How large a difference these scenes would have found in four of five tries."""
    found = row["detectable_difference"]
    if found >= 1:
        return f"{row['scenes']} scenes are too few to show any difference reliably."
    return (
        f"{row['scenes']} scenes that disagree as often as these show a difference of "
        f"{points(found)} or more in 4 of 5 tries."
    )


def what_next(row: Mapping[str, Any]) -> str:
    """How many more scenes would settle it, if what was seen is true."""
    needed = row["scenes_needed"]
    if needed is None:
        return ""
    more = needed - row["scenes"]
    if more <= 0:
        return ""
    return (
        f"If the difference seen is true, about {more} more scenes would be needed to show it "
        f"({needed} in all, 4 of 5 tries)."
    )


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}".removesuffix(".0") + " %"


def points(value: float, sign: bool = False, unit: bool = True) -> str:
    """`0.1` as `10 points`; percentage points, so that 50 % to 60 % is not taken for 20 %."""
    text = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    text = text.removesuffix(".0")
    text = "0" if text in ("+0", "-0") else text
    return f"{text} point{'' if text in ('1', '+1', '-1') else 's'}" if unit else text


def p_words(p: float) -> str:
    return (
        "below 0.0001"
        if p < 0.0001
        else f"{p:.4f}"
        if p < 0.001
        else f"{p:.3f}".rstrip("0").rstrip(".")
    )
