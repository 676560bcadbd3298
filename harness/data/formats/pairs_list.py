"""ALBEF's and BLIP's lists of image-text pairs for pre-training."""

from __future__ import annotations

from pathlib import Path

from harness.data.annotations.captions import CaptionFormat, Described, is_of_a_set, listed
from harness.data.annotations.findings import Findings, Tally
from harness.data.annotations.format import FileKind, Found, Source
from harness.data.annotations.report import Examination, Report, counted
from harness.data.pairs import pretrain_command, read_pairs
from harness.kit.errors import HarnessError


class PairsList(CaptionFormat):
    """[{"image", "caption"}]; `pretrain` passes over a few images that are missing, where tasks need every one."""

    files = (
        FileKind(
            "image-text pairs for pre-training",
            {"": frozenset({"image", "caption"})},
            also=lambda row: not is_of_a_set(row),
        ),
    )
    second = True
    each = True
    pretrains_alone = True

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        return listed(found.path)

    def describe(self, source: Source, examination: Examination) -> list[Report]:
        lists = [one for one in source.meant if one.kind is self.files[0]]
        return [self._report(source, one, examination, alone=len(lists) == 1) for one in lists]

    def _report(self, source: Source, found: Found, examination: Examination, *, alone: bool) -> Report:
        tally, report = Tally(), Report(found.title(source.root), [found.path])
        try:
            pairs = read_pairs(found.path, warn=lambda line: tally.odd("", line))
        except HarnessError as error:
            tally.fault("", str(error))
        else:
            captions = sum(len(ref.captions) for ref in pairs.refs)
            images = dict.fromkeys(
                ref.image for ref in pairs.refs if isinstance(ref.image, Path) and ref.image.is_file()
            )
            looked = examination.images(list(images), tally, fatal=False)
            report.counts = [f"{counted(len(pairs.refs), 'pair')}, {counted(captions, 'caption')}", looked]
            if alone and self in [one.format for one in source.candidates(self.fills)] and not tally.found:
                report.commands = self.commands(source, found)
            if len(pairs.refs) > 1:
                unreadable = tally.found["unreadable images"].count if "unreadable images" in tally.found else 0
                bad = pairs.unusable + unreadable
                report.commands.append(pretrain_command(str(found.path), len(pairs.refs), bad))
        report.findings = list(tally.found.values())
        return report
