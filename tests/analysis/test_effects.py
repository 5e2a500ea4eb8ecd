from analysis.effects import varying
from mm1_lab.config import Sweep


def test_of_equal_arms_the_one_that_ran_is_known(data_mix: Sweep) -> None:
    arms = {"unfinished": data_mix.arms["base"], **data_mix.arms}
    sweep = data_mix.model_copy(update={"arms": arms})
    assert set(varying(sweep, ["base", "no-vecap"])) == {"base", "no-vecap"}
