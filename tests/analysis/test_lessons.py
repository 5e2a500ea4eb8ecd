"""Verdicts on simulated results of known truth; holes, one seed and sweeps that were not run; the lessons' file."""

import json
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from analysis.lessons import LAW, Taught, claims_of, judge_sweep, load_lessons, teach
from analysis.study import read_study
from analysis.tables import seeds_cell
from mm1_lab.config import EncoderRecipe, Recipe, RequestError, Sweep, load_sweep
from tests.analysis.results_folder import LIFT, ROOT, Lifts, write_results

LESSONS = load_lessons()
TYPES = ("average-pooling", "attention-pooling", "c-abstractor")
GRID = {
    f"{connector} {resolution} {tokens}": Recipe(connector=connector, resolution=resolution, image_tokens=tokens)  # type: ignore[arg-type]
    for connector, resolution, tokens in product(TYPES, (224, 336), (64, 144))
}
ENCODERS = {
    f"{data} {size} {resolution}": Recipe(resolution=resolution, encoder=EncoderRecipe(size=size, data=data))
    for data, size, resolution in [
        ("dfn+vecap", "ViT-L", 224),
        ("dfn", "ViT-H", 224),
        ("dfn+vecap", "ViT-H", 224),
        ("dfn+vecap", "ViT-L", 336),
        ("dfn+vecap", "ViT-H", 336),
    ]  # type: ignore[list-item]
}


def sweep_of(name: str, arms: dict[str, Recipe]) -> Sweep:
    return Sweep(name=name, title=name, reproduces="Fig. 99", axis=name, base=Recipe(), arms=arms)


def lifts_of(arms: dict[str, Recipe], **effects: float) -> Lifts:
    """The same lift at every number of shots: the sum of the effects whose level an arm has (`_336=5`)."""
    lift = {arm: sum(size for level, size in effects.items() if level[1:] in arm.replace("-", "_")) for arm in arms}
    return {arm: (size, size, size) for arm, size in lift.items()}


def taught(folder: Path, law: Path | None = None) -> dict[str, Taught]:
    study = read_study(folder)
    found = teach(LESSONS, {study.sweep.name: judge_sweep(study, LESSONS)}, law or folder / "law.json")
    return {one.lesson.name: one for one in found}


def connector(tmp_path: Path, seeds: int = 3, missing: tuple[str, ...] = (), **effects: float) -> dict[str, Taught]:
    sweep = sweep_of("connector", GRID)
    lifts = lifts_of(GRID, **effects)
    return taught(write_results(tmp_path, sweep, GRID, range(seeds), missing=missing, lifts=lifts, questions=16))


def test_a_world_as_the_paper_says_supports_the_paper(tmp_path: Path) -> None:
    found = connector(tmp_path, _336=5, _144=4)
    assert {name: found[name].judged.verdict for name in ("image tokens", "connector type", "connector order")} == {
        "image tokens": "supported",
        "connector type": "supported",
        "connector order": "supported",
    }
    tokens = found["image tokens"].judged.lead
    assert tokens and tokens.difference and tokens.difference.low < 4 < tokens.difference.high
    assert "6 pairs" in tokens.claim.detail
    assert len(found["connector type"].judged.evidence) == 3 and len(found["connector order"].judged.evidence) == 12


def test_a_world_that_is_otherwise_contradicts_it(tmp_path: Path) -> None:
    found = connector(tmp_path, _144=-4, _c_abstractor=9)
    assert {found[name].judged.verdict for name in ("image tokens", "connector type", "connector order")} == {
        "contradicted"
    }
    worst = found["connector type"].judged.lead
    assert worst and worst.difference and abs(worst.difference.estimate) > 7


def test_an_effect_below_the_noise_is_undecided_and_says_how_many_seeds_would_settle_it(tmp_path: Path) -> None:
    found = connector(tmp_path, _144=0.3)
    judged = found["image tokens"].judged
    assert judged.verdict == "undecided" and judged.seeds_needed and judged.seeds_needed > 3


def test_one_seed_gives_an_interval_over_questions_and_no_number_of_seeds(tmp_path: Path) -> None:
    found = connector(tmp_path, seeds=1, _144=4)
    assert found["image tokens"].interval == "questions" and found["image tokens"].seeds == 1
    assert all(one.judged.seeds_needed is None and "1000" not in seeds_cell(one.judged) for one in found.values())


def test_five_seeds_narrow_what_three_say(tmp_path: Path) -> None:
    three, five = (connector(tmp_path / str(n), n, _144=4)["image tokens"].judged.lead for n in (3, 5))
    assert three and five and three.difference and five.difference
    assert five.difference.half_width < three.difference.half_width


def test_pairs_with_a_hole_are_left_out_and_counted(tmp_path: Path) -> None:
    missing = tuple(f"c-abstractor 336 144/{seed}" for seed in range(3))
    found = connector(tmp_path, missing=missing, _144=4)
    lead = found["image tokens"].judged.lead
    assert lead and "5 pairs" in lead.claim.detail and found["image tokens"].judged.verdict == "supported"


def test_encoder_axes_are_compared_and_ordered(tmp_path: Path) -> None:
    lifts = lifts_of(ENCODERS, _336=12, _ViT_H=1.5, _vecap=9)
    found = taught(
        write_results(tmp_path, sweep_of("encoder", ENCODERS), ENCODERS, range(5), lifts=lifts, questions=16)
    )
    verdicts = {name: found[name].judged.verdict for name in ("resolution", "encoder size", "encoder data")}
    assert verdicts == {"resolution": "supported", "encoder size": "supported", "encoder data": "supported"}
    order = found["encoder order"].judged
    assert order.verdict == "contradicted" and order.lead and "dfn+vecap" in order.lead.claim.detail
    assert found["encoder loss"].note == "too few scores"


def test_the_data_mix_lessons_follow_the_truth(tmp_path: Path, data_mix: Sweep) -> None:
    truth = dict(LIFT) | {"interleaved+text": (-9.0, 6.0, -4.0), "text-33": (3.0, 5.0, 6.0), "base": (3.0, 5.0, 6.0)}
    found = taught(write_results(tmp_path, data_mix, data_mix.arms, range(5), lifts=truth, questions=24))
    verdicts = {one.lesson.name: one.judged.verdict for one in found.values() if one.lesson.sweep == "data_mix"}
    assert verdicts["captions"] == "supported"  # 12 over −9
    assert verdicts["text with interleaved"] == "contradicted"  # −4 where 7 stands without text
    assert verdicts["synthetic captions"] == "supported"  # 5 over −3
    assert verdicts["few-shot"] == "supported"
    assert verdicts["interleaved documents"] != "contradicted"


def test_what_was_not_run_says_how_to_run_it(tmp_path: Path) -> None:
    found = connector(tmp_path, seeds=2)
    assert found["captions"].note == "not run: make sweep-data-mix" and found["captions"].judged.verdict == "–"
    assert found["learning-rate law"].note == "not run: make lr-law"


@pytest.mark.parametrize(
    ("slope", "half", "verdict"),
    [(-0.45, 0.12, "supported"), (-0.45, 0.5, "undecided"), (0.2, 0.1, "contradicted"), (-0.9, 0.1, "contradicted")],
)
def test_the_law_is_judged_by_its_slope(tmp_path: Path, slope: float, half: float, verdict: str) -> None:
    law = tmp_path / "law.json"
    values = {"coefficients": {"ln N": slope}, "intervals": {"ln N": [slope - half, slope + half]}, "n": 4}
    law.write_text(json.dumps(values | {"fits": [{"degrees_of_freedom": 2}]}), encoding="utf-8")
    (found,) = [one for one in teach(LESSONS, {}, law) if one.lesson.sweep == LAW]
    assert found.judged.verdict == verdict and found.interval == "4 sizes"
    law.write_text(json.dumps({"coefficients": None, "why": "9M is not bracketed"}), encoding="utf-8")
    (found,) = [one for one in teach(LESSONS, {}, law) if one.lesson.sweep == LAW]
    assert (found.judged.verdict, found.note) == ("–", "no law: 9M is not bracketed")
    law.write_text("{}", encoding="utf-8")
    with pytest.raises(RequestError, match=r"law\.json: cannot be read .* fit the law again"):
        teach(LESSONS, {}, law)


def test_every_lesson_is_about_a_contrast_or_an_axis_that_its_sweep_has() -> None:
    for lesson in LESSONS:
        path = ROOT / "sweeps" / f"{lesson.sweep}.yaml"
        if lesson.sweep != LAW and path.exists():
            sweep = load_sweep(path)
            assert all(claims_of(part, lesson, sweep, sweep.arms) for part in lesson.parts), lesson.name


def test_lessons_are_in_few_words_and_give_reasons_for_their_margins() -> None:
    assert len({lesson.name for lesson in LESSONS}) == len(LESSONS) == 16
    for lesson in LESSONS:
        assert len(lesson.paper) < 100 and len(lesson.margin) > 20


def test_a_broken_lesson_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lessons.yaml"
    path.write_text("- {name: a}\n", encoding="utf-8")
    with pytest.raises(RequestError, match="lesson 1: the key 'claim' is missing"):
        load_lessons(path)
    path.write_text("lessons\n", encoding="utf-8")
    with pytest.raises(RequestError, match="must hold a list"):
        load_lessons(path)
    good = (ROOT / "analysis" / "lessons.yaml").read_text(encoding="utf-8")
    path.write_text(good.replace("{contrast: captions lift zero-shot}", "{measure: 0-shot}"), encoding="utf-8")
    with pytest.raises(RequestError, match="a part names a contrast, an axis"):
        load_lessons(path)


def test_a_verdict_of_a_contrast_is_the_lessons_where_it_is_its_only_part(tmp_path: Path, data_mix: Sweep) -> None:
    study = read_study(write_results(tmp_path, data_mix, data_mix.arms, range(3), questions=16))
    verdicts = judge_sweep(study, LESSONS)
    by_claim = {one.evidence[0].claim.text: one.verdict for one in verdicts.contrasts}
    assert by_claim["captions lift zero-shot"] == verdicts.lessons["captions"].verdict
    assert pd.notna([one.p_value for one in verdicts.contrasts]).all()
