"""L-Eval's closed-ended suite: its scores, its questions, and tasks for lm-evaluation-harness.

The tasks are a folder of YAML files, so any back end of the harness can run them:

    lm_eval --model hf --model_args pretrained=MODEL,max_length=17408 --tasks leval \\
        --include_path $(resrope leval path) --metadata '{"leval_data": "DIR"}'

DIR holds coursera.jsonl, gsm100.jsonl, quality.jsonl, tpo.jsonl, codeU.jsonl and sci_fi.jsonl; it may also
stand in LEVAL_DATA, and without either the files come from the hub (L4NLP/LEval). Add --apply_chat_template
for a chat model.

Documents are cut to leval_length − 512 tokens of MODEL's tokenizer (or of ``tokenizer`` in the metadata).
leval_length, what L-Eval calls max_length, may stand in the metadata too; else it is max_length − 1024. These
1024 tokens are for the question: L-Eval puts it on top of its length, and the harness would otherwise drop
the beginning of the prompt.
"""

from pathlib import Path

# What lm_eval's --include_path wants.
TASK_FOLDER = Path(__file__).parent / "tasks"
