"""The model card of an exported arm, from the ledger: what was trained, scores, and how to load it."""

import json
from typing import Any

import pandas as pd

from analysis.statistics import over_questions
from mm1_lab.results.trained import in_the_papers_words, what_ran

LOADING = {
    "mm1": """import mm1_lab.model  # pip install mm1-lab; registers the architecture
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER)
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "{prompt}"}]}]
inputs = processor(images=["picture.jpg"], text=processor.apply_chat_template(chat))
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True))

# or in a sweep of mm1-lab, to tune it on instructions: {sft: {start: FOLDER}}""",
    "encoder": """from transformers import AutoModel

model = AutoModel.from_pretrained(FOLDER)

# or in a sweep of mm1-lab: {encoder: {size: FOLDER}}, or --set "pretrained_encoders.ViT-L=FOLDER\"""",
    "decoder": """from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = PreTrainedTokenizerFast.from_pretrained(FOLDER)  # AutoTokenizer may take one of another family

# or in a sweep of mm1-lab, unless it is a mixture of experts: {decoder: FOLDER}""",
}
"""Code to load an exported folder, by form."""
PROMPTS = {
    (True, False): "question : what color is the circle ? answer :",
    (True, True): "the color of the circle",
    (False, False): "Question: What is shown? Short answer:",
    (False, True): "What is shown?",
}
"""What the code asks, by whether the model is of the miniature world and whether it is tuned, as it was trained: of a
tuned model the chat template makes a user's turn, of others it leaves the text as it is."""


def model_card(
    name: str, form: str, record: dict[str, Any] | None, scores: pd.DataFrame | None, image_tokens: int
) -> str:
    """The card as Markdown. `record` and `scores` are those of the trial, or None if it is not evaluated yet.

    Intervals are computed from blocks of questions, so they apply to this one model only.
    """
    in_world = record is not None and record["config"]["data"]["kind"] == "world"
    tuned = record is not None and record["recipe"].get("sft") is not None
    prompt = PROMPTS[in_world, tuned]
    lines = ["---", "pipeline_tag: image-text-to-text" if form == "mm1" else "tags: [mm1-lab]"]
    lines += ["library_name: transformers", "---", "", f"# {name}", "", f"Exported by mm1-lab as `{form}`.", ""]
    lines += ["## How to load it", "", "```python", LOADING[form].replace("{prompt}", prompt), "```", ""]
    if form == "mm1":
        lines += [
            f"`<image>` stands where a picture is; it takes {image_tokens} places of the sequence. Give pictures by "
            "their paths to get the pixels of training; large JPEGs that are loaded already differ a little.",
            "",
        ]
    if tuned and not in_world and form == "mm1":
        lines += ["An answer ends at the end token, or where a line begins with `User:`.", ""]
    if record is None or scores is None:
        return "\n".join([*lines, "It has not been evaluated.", ""])
    config, model = record["config"], record["config"]["model"]
    lines += ["## What was trained", "", "| | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in what_ran(config).items()]
    if counted := record["summaries"].get("sft" if "model" in model else "multimodal", {}).get("parameters"):
        parts = ", ".join(f"{name} {count:,}" for name, count in counted.items())
        lines.append(f"| parameters | {sum(counted.values()):,} ({parts}) |")
    data = config["data"]
    lines += [f"| read from | {data['kind']}, {data['digest']} |", f"| seed | {config['seed']} |", ""]
    recipe = json.dumps(in_the_papers_words(record["recipe"], config), indent=1)
    lines += ["The recipe in MM1's names and numbers, of which the table says what they stood for here:", ""]
    lines += ["```json", recipe, "```", ""]
    lines += ["## Scores", "", "| benchmark | metric | shots | questions | score | 95 % interval |", "|---" * 6 + "|"]
    for (benchmark, metric, shots), rows in scores.groupby(["benchmark", "metric", "shots"], sort=False):
        blocks = rows.groupby("block")["score"]
        found = over_questions({"": blocks.mean().to_numpy()}, {"": blocks.size().to_numpy().astype(float)})
        interval = f"{found.low:.1f} to {found.high:.1f}" if found.low == found.low else ""  # none for a single block
        lines.append(f"| {benchmark} | {metric} | {shots} | {len(rows)} | {found.estimate:.1f} | {interval} |")
    notes = [f"- {name}: {note}" for name, note in record.get("benchmarks", {}).items()]
    environment = record["environment"]
    own = {"mm1-lab": environment["mm1_lab"]} if "mm1_lab" in environment else {}  # not recorded before 0.3.0
    versions = ", ".join(f"{name} {version}" for name, version in (own | environment["versions"]).items())
    lines += ["", "Intervals are over blocks of questions: of this one model, not of its recipe.", *notes]
    return "\n".join([*lines, "", f"Made with {versions}; results {record['fingerprints']['evaluation']}.", ""])
