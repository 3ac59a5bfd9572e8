"""AP of each variant of a recipe over seeds, as a table: what each part of a method is worth.

    python benchmarks/ablation.py --config=bccd --arguments=alone,tar,mimic --seeds=0,1,2 --out=runs/ablation

Each run has a workdir below --out and is not trained again if it is finished; several processes may share the work by
taking different seeds. --table prints the table of whatever runs are there, as Markdown. The control of the second
paper, students that start from finished ones and go on with a teacher or without:

    python benchmarks/ablation.py --config=bccd --arguments=alone,gkd --initial=runs/ablation/alone_{seed}/student \
        --out=runs/control
"""

import argparse
import json
import statistics
from pathlib import Path

from ml_collections import ConfigDict

from jaxkd import config as configs
from jaxkd.train import loop


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description="AP of each variant of a recipe over seeds.")
    parser.add_argument("--config", default="bccd")
    parser.add_argument("--arguments", default="alone,tar,mimic")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--initial", default="", help="weights that students start from; {seed} becomes the seed")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    options = parser.parse_args()
    if not options.table:
        for seed in map(int, options.seeds.split(",")):
            for argument in options.arguments.split(","):
                recipe = configs.load_recipe(options.config, argument)
                recipe.train.seed = seed
                recipe.train.steps = options.steps or recipe.train.steps
                recipe.initial = options.initial.format(seed=seed)
                run(recipe, options.out / f"{argument}_{seed}")
    print(table(options.out))


def run(recipe: ConfigDict, workdir: Path) -> None:
    """One run, and its scores in scores.json."""
    if (workdir / "scores.json").exists():
        return
    finished = loop.run(recipe, workdir, quiet=True)
    scores = finished.evaluation.scores
    content = {
        "scores": scores.summary,
        "per_class": scores.per_class,
        "seconds": finished.seconds,
        "wait_share": finished.wait_share,
    }
    (workdir / "scores.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"{workdir.name}: AP {100 * scores.summary['AP']:.1f}, {finished.seconds:.0f} s", flush=True)


def table(folder: Path) -> str:
    """Markdown: a row for each variant with its AP by seed, their mean, and the gain over the variant "alone"."""
    found: dict[str, dict[int, dict]] = {}
    for file in sorted(folder.glob("*/scores.json")):
        argument, _, seed = file.parent.name.rpartition("_")
        found.setdefault(argument, {})[int(seed)] = json.loads(file.read_text())["scores"]
    seeds = sorted({seed for runs in found.values() for seed in runs})
    base = _mean(found.get("alone", {}), "AP")
    lines = [f"| variant | {' | '.join(f'seed {seed}' for seed in seeds)} | mean AP | AP50 | AP75 | gain |"]
    lines.append(f"| --- |{' ---: |' * (len(seeds) + 4)}")
    for argument, runs in sorted(found.items(), key=lambda item: (item[0] != "alone", item[0])):
        cells = [f"{100 * runs[seed]['AP']:.1f}" if seed in runs else "" for seed in seeds]
        means = [_mean(runs, name) for name in ("AP", "AP50", "AP75")]
        cells += [*(f"{value:.1f}" for value in means), f"{means[0] - base:+.1f}"]
        lines.append(f"| {argument} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(runs: dict[int, dict], name: str) -> float:
    return 100 * statistics.fmean(scores[name] for scores in runs.values()) if runs else float("nan")


if __name__ == "__main__":
    main()
