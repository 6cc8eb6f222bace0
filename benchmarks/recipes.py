"""The recipe's options beside each other: python -m benchmarks.recipes --out=runs/recipes [-- flags of train.py]

Trains the preset `plain` as it is, with larger steps, and with one thing more changed at a time, each with every seed,
and scores the ends of the runs with `evaluate.py`. What is done already is not done again, and a run that was
interrupted goes on, so the command can be given as often as there is time. Prints a Markdown table of means over the
seeds, with the least and the largest beside them: all scores are of 256 clips of each run's last step.

The columns: `frechet_video`, `precision`, `recall`; how far the clothes' or the shape's colours change within a clip
(`identity`, on `shapes` the content distance `acd_color`), beside how far clips' colours lie apart (`color_diversity`)
and the share of clips in which there is a shape at all (`coverage`); `mcs`; `diversity` of clips; the loss of each
discriminator and the share of clips or frames that it tells apart, over the last quarter of the steps. Look at the
runs' `samples/` too: no score has eyes.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# What each run changes of the preset. A few hundred steps tell little of the preset itself, whose step sizes are made
# for thousands; so single changes are made to a recipe that starts faster.
FAST = ["--learning_rate=5e-4", "--learning_rate_d=5e-4", "--update_gate_bias=1", "--motion_init_scale=0.5"]
NO_R1 = ["--r1_image=0", "--r1_video=0"]
SETTINGS = {
    "as it is": [],
    "fast": FAST,
    "fast, shared fakes": [*FAST, "--share_fakes"],
    "fast, two frames to D_I": [*FAST, "--image_frames=2"],
    "fast, modulated content": [*FAST, "--content_modulation"],
    "fast, modulated content of 8 numbers": [*FAST, "--content_modulation", "--dim_content=8"],
    "fast, first state as wide as noise": [*FAST, "--motion_init_scale=1"],
    "fast, no R1": [*FAST, *NO_R1],
    "fast, batch norm, noise 0.1, no R1": [*FAST, "--discriminator_norm=batch", "--noise_sigma=0.1", *NO_R1],
    "fast, spectral norm, no R1": [*FAST, "--discriminator_norm=spectral", *NO_R1],
    "fast, no moving average": [*FAST, "--ema_decay=0"],
    "fast, half the step size for D": [*FAST, "--learning_rate_d=2.5e-4"],
    "fast, warm-up, 200 steps": [*FAST, "--warmup_steps=200"],
    "fast, label smoothing 0.1": [*FAST, "--label_smoothing=0.1"],
    "fast, augmentation": [*FAST, "--augment=translation,cutout"],
    "fast, no D_I": [*FAST, "--image_discriminator=none"],
    "fast, category to the decoder": [*FAST, "--category_to=image"],
    "fast, no D_I, category to the decoder": [*FAST, "--image_discriminator=none", "--category_to=image"],
}
METRICS = {
    "shapes": "frechet_video,precision,acd_color,mcs,diversity",
    "taichi": "frechet_video,precision,identity,mcs,diversity",
}
BALANCE = ("loss_d_image", "accuracy_d_image", "loss_d_video", "accuracy_d_video")
QUALITY = ("frechet_video", "precision", "recall", "identity", "acd_color", "color_diversity", "coverage", "mcs")
COLUMNS = (*QUALITY, "diversity", *BALANCE)


def run_name(setting):
    """Returns the folder name of a setting."""
    return "".join(letter if letter.isalnum() else "-" for letter in setting.lower())


def train(folder, dataset, setting, seed, flags):
    """Trains one run, or goes on with it; what it prints goes to a file beside its folder."""
    command = [
        *[sys.executable, "train.py", "--profile=cpu", "--preset=plain", f"--dataset={dataset}", f"--seed={seed}"],
        *[f"--run_dir={folder}", "--evaluate_every=0", *SETTINGS[setting], *flags],
    ]
    with open(f"{folder}.txt", "a") as out:
        if subprocess.run(command, cwd=ROOT, stdout=out, stderr=out).returncode:
            sys.exit(f"{' '.join(command[1:])} has failed; see {folder}.txt")


def score(folder, dataset, num_videos):
    """Returns the scores of a finished run by name, from `evaluate.py` and from its log."""
    command = [sys.executable, "evaluate.py", f"--run_dir={folder}", f"--num_videos={num_videos}"]
    command.append(f"--metrics={METRICS[dataset]}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:])} has failed: {done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["metric"]: line["value"] for line in lines} | balance(folder)


def balance(folder):
    """Returns the means of the discriminators' losses and accuracies over the last quarter of the logged steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = lines[-max(1, len(lines) // 4) :]
    return {name: statistics.mean(line[name] for line in last) for name in BALANCE if name in last[-1]}


def table(results, datasets, seeds):
    """Returns the Markdown tables, one per set: a row per setting that has a run, a column per score that one has."""
    parts = []
    for dataset in datasets:
        rows = {}
        for setting in SETTINGS:
            runs = [results.get(f"{dataset}/{run_name(setting)}/{seed}") for seed in seeds]
            rows[setting] = [run for run in runs if run]
        columns = [name for name in COLUMNS if any(name in run for runs in rows.values() for run in runs)]
        lines = [f"| `{dataset}` | runs | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
        for setting, runs in rows.items():
            if runs:
                cells = [_cell([run[name] for run in runs if name in run]) for name in columns]
                lines.append(f"| {setting} | {len(runs)} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(values):
    if not values:
        return ""
    least, mean, largest = min(values), statistics.mean(values), max(values)
    digits = 0 if largest >= 100 else 1 if largest >= 10 else 2
    return f"{mean:.{digits}f}" + (f" ({least:.{digits}f} to {largest:.{digits}f})" if len(values) > 1 else "")


def main():
    """Trains and scores what is missing, then prints the tables, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs and of results.json")
    parser.add_argument("--datasets", nargs="+", choices=list(METRICS), default=list(METRICS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--num_videos", type=int, default=256, help="clips to score")
    parser.add_argument("--table", action="store_true", help="print what is there and train nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("flags", nargs="*", help="for all runs, after `--`: flags of train.py")
    options = parser.parse_args()
    kept = options.out / "results.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"flags": options.flags, "runs": {}}
    if state["flags"] != options.flags and not options.table:
        parser.error(f"{kept} holds runs with the flags {' '.join(state['flags'])}. Give the same, or another --out.")
    results = state["runs"]
    missing = [
        (dataset, setting, seed)
        for seed in options.seeds
        for setting in options.settings
        for dataset in options.datasets
        if f"{dataset}/{run_name(setting)}/{seed}" not in results
    ]
    for number, (dataset, setting, seed) in enumerate([] if options.table else missing, 1):
        print(f"run {number} of {len(missing)}: {dataset}, {setting}, seed {seed}", file=sys.stderr, flush=True)
        folder = options.out.resolve() / dataset / run_name(setting) / str(seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(folder, dataset, setting, seed, options.flags)
        results[f"{dataset}/{run_name(setting)}/{seed}"] = score(folder, dataset, options.num_videos)
        kept.write_text(json.dumps(state, indent=1))
    print(json.dumps(state) if options.json else table(results, options.datasets, options.seeds))


if __name__ == "__main__":
    main()
