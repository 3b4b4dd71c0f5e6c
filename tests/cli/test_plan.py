"""x2l-plan: its numbers are those that a run records; bad values and what cannot fit are told before anything runs."""

from inspect import signature

import pytest

from tests.evaluation.test_settings import settings as settings_with
from tests.llava_video import checkpoint
from x2l.cli import plan
from x2l.cli.plan import jobs_of, plan_job
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.quantisation import Quantised
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.evaluation.budgets import level_bytes
from x2l.evaluation.plan import Film, outlined, video_cost
from x2l.models.loading import load, outline

FEW = (
    "video.frames=16",
    "benchmark.videos=3",
    "benchmark.questions=1",
    "benchmark.tasks=[retrieval]",
)


@pytest.mark.parametrize("context", ["full", "high", "own"])
def test_the_closed_forms_are_those_that_a_run_counts(context):
    levels = {"low": Level(ToMe(), 2, Quantised(8)), "high": Level(KeyNorm(), 16)}
    given = settings_with(frames=22, fps=None, chunk_frames=8, context=context)
    film, meter = Film(22, 64, 64), Meter()
    cost = video_cost(outline(), film, "Which?", levels, (), given)
    model = load()
    prompt = model.prompt(outlined(film, given), 8)
    store = prefill(model, prompt, levels, context, meter=meter)
    assert cost.frames == 22 and cost.tokens == prompt.tokens and not cost.refusals
    assert {stage: cost.flops[stage] for stage in ("prefill", "compression")} == {
        stage: meter.flops[stage] for stage in ("prefill", "compression")
    }
    assert cost.flops["vision"] == pytest.approx(meter.flops["vision"], rel=0.35)  # an estimate
    for name, level in levels.items():
        assert level_bytes(model, prompt, level) == sum(store.nbytes(name))


def test_the_jobs_are_those_of_the_sweep():
    jobs = jobs_of(["levels.high.ratio=8,16", "compressor=tome", "hydra.sweep.dir=x"], True)
    assert [sorted(job) for job in jobs] == [
        ["compressor=tome", f"levels.high.ratio={ratio}"] for ratio in (8, 16)
    ]
    assert len(jobs_of(["experiment=ladder"], False)) > 1  # has its axes in its file
    with pytest.raises(plan.ConfigError, match="levels.high.ratio=8,16: is several values; add -m"):
        jobs_of(["levels.high.ratio=8,16"], False)


def test_files_that_are_not_made_yet_are_counted_and_stay_unmade(tmp_path):
    words = (*FEW, f"paths.data={tmp_path}", "selector=[none,random]", "top_k=[1,2]", "limit=2")
    job = plan_job(words, {}, (None, None, None))
    assert (job.prefills, job.questions, job.answers) == (2, 2, 6)
    assert not list(tmp_path.iterdir())


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        plan.main([*words])
    return ended.value.code, *capsys.readouterr()


def test_every_bad_value_of_a_sweep_is_told_at_once(tmp_path, capsys):
    words = ("-m", *FEW, f"paths.data={tmp_path}", "levels.high.ratio=1,4", "top_k=1,9")
    code, printed, errors = run(capsys, *words)
    assert code == 2 and not printed
    assert "levels.low.ratio=2: must be at most levels.high.ratio=1" in errors
    assert "top_k=9" in errors and len(errors.splitlines()) == 1


def test_what_cannot_fit_is_a_warning(tmp_path, capsys):
    words = (*FEW, f"paths.data={tmp_path}")
    code, printed, errors = run(capsys, *words, "--memory-gb", "0.001", "--tflops", "0.001")
    assert code == 1 and "memory" in errors and "use fewer frames" in errors
    assert "1 jobs, 3 pre-fills, 3 answers" in printed and "h at 0.001 TFLOP/s" in printed
    code, printed, errors = run(capsys, *words, "--memory-gb", "80")
    assert code == 0 and not errors and "time      not known: --tflops N" in printed


def test_options_of_the_checkpoint_change_the_plan_as_they_change_the_run(tmp_path):
    """Visual tokens and newlines of 16 frames: a grid of 5 x 5 or 4 x 4, with the newlines as text or in their row."""
    checkpoint(tmp_path / "model")
    (tmp_path / "data").mkdir()

    def planned(*words):
        model = (
            "model=llava_video_7b",
            f"model.name_or_path={tmp_path / 'model'}",
            "selector=none",
        )
        few = (*model, *FEW, f"paths.data={tmp_path / 'data'}")
        (cost,) = plan_job((*few, "model.device=cpu", *words), {}, (None, None, None)).costs
        return cost

    plain = planned("model.original={add_time_instruction:false}")
    average = planned("model.original={mm_spatial_pool_mode:average,add_time_instruction:false}")
    assert plain.tokens - average.tokens == 16 * (5 * 6 - 4 * 5)
    assert planned().tokens > plain.tokens  # the sentence about times
    row = planned("model.original={newlines:row,add_time_instruction:false}")
    assert row.tokens == plain.tokens and row.stored_bytes < plain.stored_bytes
    with pytest.raises(plan.ConfigError, match=r"model\.original\.foo=1: must be one of newlines"):
        planned("model.original={foo:1}")


def test_every_setting_of_a_model_that_makes_its_prompt_is_planned_with():
    """What `outline` does not take changes no token and no weight."""
    others = {"device", "device_map", "attn_implementation", "check_shape"}
    assert set(signature(load).parameters) - set(signature(outline).parameters) == others


def test_workers_share_videos_by_shards():
    slurm, ray = plan.workers(["benchmark=mlvu,videomme", "top_k=[1,2]"], 3)
    start = (
        "x2l -m benchmark=mlvu,videomme 'top_k=[1,2]' benchmark.shard=1/3,2/3,3/3 hydra/launcher="
    )
    assert slurm == f"{start}submitit_slurm hydra.launcher.array_parallelism=3"
    assert ray == f"{start}ray hydra.launcher.ray.remote.num_gpus=1"
    with pytest.raises(
        plan.ConfigError, match="--workers 2: benchmark=needle has no setting shard"
    ):
        plan.workers(["benchmark=mlvu,needle"], 2)
    with pytest.raises(plan.ConfigError, match="leave that out"):
        plan.workers(["benchmark=mlvu", "benchmark.shard=1/2"], 2)
