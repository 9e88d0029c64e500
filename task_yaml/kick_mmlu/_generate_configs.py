# SPDX-License-Identifier: Apache-2.0
"""Write the MMLU task files: 57 subjects and 5 groups for each of the two families.

Run ``python task_yaml/kick_mmlu/_generate_configs.py`` after a change. Not to be edited by hand:
``task_yaml/{kick,llmkick}_mmlu/{subjects/*,groups/*}.yaml``; what the subjects of a family share is
in its ``_template_yaml``.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["CATEGORIES", "FAMILIES", "files", "main"]

# Subjects by category, as Hendrycks et al. (arXiv:2009.03300) group them.
CATEGORIES = {
    "stem": [
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ],
    "humanities": [
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ],
    "social_sciences": [
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ],
    "other": [
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ],
}
FAMILIES = {"kick": ("acc", "acc_greedy"), "llmkick": ("acc",)}
_HEAD = (
    "# SPDX-License-Identifier: Apache-2.0\n# Written by task_yaml/kick_mmlu/_generate_configs.py\n"
)


def files() -> dict[str, str]:
    """Content by path, relative to ``task_yaml``."""
    written: dict[str, str] = {}
    for family, metrics in FAMILIES.items():
        folder, prefix = f"{family}_mmlu", f"mmlu_{family}"
        for category, subjects in CATEGORIES.items():
            for subject in subjects:
                written[f"{folder}/subjects/{subject}.yaml"] = _subject(family, subject)
            members = [f"{prefix}_{subject}" for subject in subjects]
            written[f"{folder}/groups/{category}.yaml"] = _group(
                f"{prefix}_{category}", category.replace("_", " "), members, metrics
            )
        categories = [f"{prefix}_{category}" for category in CATEGORIES]
        written[f"{folder}/groups/{folder}.yaml"] = _group(folder, folder, categories, metrics)
    return written


def _subject(family: str, subject: str) -> str:
    words = subject.replace("_", " ")
    lines = [
        "include: ../_template_yaml",
        f"task: mmlu_{family}_{subject}",
        f"task_alias: {words}",
        f"dataset_kwargs: {{subject: {subject}}}",
    ]
    if family == "kick":
        intro = f"The following are multiple choice questions (with answers) about {words}.\n\n"
        lines.append(f"description: {json.dumps(intro)}")
    return _HEAD + "\n".join(lines) + "\n"


def _group(name: str, alias: str, members: list[str], metrics: tuple[str, ...]) -> str:
    lines = [f"group: {name}", f"group_alias: {alias}", "task:"]
    lines += [f"  - {member}" for member in members]
    lines.append("aggregate_metric_list:")
    for metric in metrics:
        # By size: a question counts the same in whichever subject it is.
        lines += [f"  - metric: {metric}", "    aggregation: mean", "    weight_by_size: true"]
    lines += ["metadata:", "  version: 1.0"]
    return _HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Write all files."""
    root = Path(__file__).resolve().parent.parent
    for path, content in files().items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
