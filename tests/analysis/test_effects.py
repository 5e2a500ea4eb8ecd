from analysis.effects import groups, varying
from mm1_lab.config import Sweep


def test_axes_are_what_differs_between_recipes(data_mix: Sweep) -> None:
    levels = varying(data_mix, data_mix.arms)
    assert "blind" not in levels
    assert set(levels["base"]) == {"data mix", "synthetic captions"}
    assert levels["no-vecap"]["synthetic captions"] == "0 %" and levels["base"]["data mix"] == "45.5:45.5:9.09"
    assert {"7 %": "base", "0 %": "no-vecap"} in groups(levels, "synthetic captions")
    mixes = max(groups(levels, "data mix"), key=len).values()
    assert "base" in mixes and "no-vecap" not in mixes and len(mixes) == 10
    assert groups(levels, "resolution") == []


def test_of_equal_arms_the_one_that_ran_is_known(data_mix: Sweep) -> None:
    arms = {"unfinished": data_mix.arms["base"], **data_mix.arms}
    sweep = data_mix.model_copy(update={"arms": arms})
    assert set(varying(sweep, ["base", "no-vecap"])) == {"base", "no-vecap"}
