"""Say what came of a demo: text of at most 80 columns, facts for programs, files for people.

It gets parsed results and returns reports; it reads and writes no file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from math import ceil
from typing import Final

from gnexec.demo import curve_svg, curve_text, gemma, words
from gnexec.demo.genome import Mark
from gnexec.demo.panel import Locus, Panel
from gnexec.demo.plan import Report
from gnexec.demo.threshold import SIGNIFICANT, Mapped

SHOWN_WORDS: Final = 10
SHOWN_HITS: Final = 25


def of_mapping(mapped: Mapped, panel: Panel) -> Report:
    """Report a mapped trait beside the loci that were planted for it."""
    marks = tuple(Mark(locus.chromosome, Decimal(locus.centimorgan)) for locus in panel.planted)
    low, high = mapped.interval
    rank = ceil((1 - SIGNIFICANT) * mapped.permutations)
    told = [
        "┄ 5 % threshold   ▲ planted QTL",
        "",
        f"threshold  LOD {mapped.threshold} (rank {rank:,} from below, of the best LODs of {mapped.permutations:,})",
        f"peak       LOD {mapped.peak.lod} on chromosome {mapped.peak.chromosome} at {mapped.peak.centimorgan} cM, "
        + ("significant" if mapped.significant else "not significant"),
        f"interval   {low.centimorgan} to {high.centimorgan} cM, within 1.5 of the peak's LOD",
        f"p-value    {mapped.p_value}, genome-wide",
        *(f"planted    {_planted(locus, mapped)}" for locus in panel.planted),
    ]
    facts = {
        "strains": len(panel.strains),
        "loci": len(mapped.curve),
        "permutations": mapped.permutations,
        "threshold": str(mapped.threshold),
        "suggestive": str(mapped.suggestive),
        "peak": {
            "chromosome": mapped.peak.chromosome,
            "locus": mapped.peak.name,
            "centimorgan": str(mapped.peak.centimorgan),
            "lod": str(mapped.peak.lod),
        },
        "interval": [str(low.centimorgan), str(high.centimorgan)],
        "p_value": str(mapped.p_value),
        "significant": mapped.significant,
        "planted": [{"chromosome": locus.chromosome, "centimorgan": locus.centimorgan} for locus in panel.planted],
        "planted_found": mapped.covers(marks[0].chromosome, marks[0].centimorgan),
    }
    title = f"A trait of {len(panel.strains)} recombinant-inbred mouse strains"
    return Report(
        text="\n".join([curve_text.draw(mapped, marks), *told]),
        coloured="\n".join([curve_text.draw(mapped, marks, colour=True), *told]),
        facts=facts,
        files={"lod.svg": curve_svg.draw(mapped, marks, title=title), "result.json": _json(facts)},
    )


def of_words(total: bytes) -> Report:
    """Report what the last job of the word count wrote.

    Raises:
        ValueError: it is not that.
    """
    counts = words.read_counts(total)
    vocabulary: dict[str, int] = counts["vocabulary"]
    common = sorted(vocabulary.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_WORDS]
    digest = hashlib.sha256(words.canonical(vocabulary)).hexdigest()
    most = common[0][1] if common else 1
    told = [
        f"{counts['files']:,} files, {counts['bytes']:,} bytes",
        f"{counts['words']:,} words, {counts['tokens']:,} tokens of a-z, {len(vocabulary):,} of them distinct",
        f"SHA-256 of all counts {digest[:16]}…",
        "",
        *(f"{token[:20]:>20} {times:>9,} {'█' * max(1, 48 * times // most)}" for token, times in common),
    ]
    facts = {
        **{name: counts[name] for name in words.TOTALS},
        "distinct": len(vocabulary),
        "sha256_counts": digest,
        "most_common": [list(item) for item in common],
    }
    text = "\n".join(told)
    return Report(text, text, facts, {"counts.json": total, "result.json": _json(facts)})


def of_gemma(hits: Mapping[str, gemma.Hit]) -> Report:
    """Report the top SNP of each trait, and where permutations of a trait are there, what they say of it.

    Args:
        hits: job name to its top SNP, in order. The trait that was permuted is named "trait", its permutations
            "permuted-…".
    """
    permuted = [float(hit.p_lrt) for name, hit in hits.items() if name.startswith("permuted-")]
    rows = [
        _row(name, hit.snp, hit.chromosome, f"{hit.position / 1e6:.3f}", hit.p_lrt, str(hit.tied))
        for name, hit in hits.items()
    ]
    told = [_row("trait", "top SNP", "chr", "Mb", "p (LRT)", "tied"), *rows[:SHOWN_HITS]]
    if len(rows) > SHOWN_HITS:
        told.append(f"and {len(rows) - SHOWN_HITS:,} more")
    facts: dict[str, object] = {
        "hits": {
            name: {
                "snp": hit.snp,
                "chromosome": hit.chromosome,
                "position": hit.position,
                "p_lrt": hit.p_lrt,
                "tied": hit.tied,
            }
            for name, hit in hits.items()
        }
    }
    if permuted and "trait" in hits:
        least = sum(p <= float(hits["trait"].p_lrt) for p in permuted)
        facts["permutations"] = len(permuted)
        facts["p_value"] = f"{1 + least}/{1 + len(permuted)}"
        told += ["", f"{least} of {len(permuted)} permutations do as well: genome-wide p-value {facts['p_value']}"]
    text = "\n".join(told)
    return Report(text, text, facts, {"result.json": _json(facts)})


def _row(trait: str, snp: str, chromosome: str, mb: str, p_lrt: str, tied: str) -> str:
    return f"{trait[:14]:<14} {snp[:20]:<20} {chromosome[:3]:>3} {mb:>9} {p_lrt[:13]:>13} {tied:>5}"


def _planted(locus: Locus, mapped: Mapped) -> str:
    """Say where a QTL was planted and how high the curve is there."""
    place = f"chromosome {locus.chromosome} at {locus.centimorgan} cM"
    if mapped.covers(locus.chromosome, Decimal(locus.centimorgan)):
        return f"{place}: within the interval"
    lod = max(point.lod for point in mapped.curve if point.name == locus.name)
    level = "significant" if lod > mapped.threshold else "suggestive" if lod > mapped.suggestive else "not seen"
    return f"{place}: LOD {lod}, {level}"


def _json(facts: Mapping[str, object]) -> bytes:
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()
