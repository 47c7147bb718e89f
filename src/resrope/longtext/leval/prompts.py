"""What a model is asked: L-Eval's form of a prompt, and its way to cut a long document."""

from __future__ import annotations

from collections.abc import Callable

# Tokens of an answer; they count towards L-Eval's max_length.
ANSWER_TOKENS = 512
# Words by which a document that is still too long gets shorter.
_STEP = 250

_QUESTION = (
    "Document is as follows. {document} \nQuestion: {instruction}. "
    "Please directly give the answer without any additional output or explanation \nAnswer:"
)
# Tasks whose answers end a chain of thoughts.
_WORKED_OUT = "{document}\n\n{instruction}"
_CLOSED_BOOK = (
    "{instruction} Please directly give the answer without any additional output or explanation \nAnswer:"
)
_BY_THE_DOCUMENT = "based on the world described in the document"
_BY_THE_WORLD = "based on what is known about the real world"

_ONE_OPTION = (
    "A very long document is given to you, and a question about it. A multiple-choice question has exactly "
    "one correct option: reply with its letter only, like A or B. Any other question wants a short and exact "
    "answer. "
)
_SYSTEM = {
    "coursera": (
        "A very long document is given to you, and a multiple-choice question about it. One or several "
        "options can be correct: reply with the letters of all correct options only, like A or AB. "
    ),
    "gsm100": (
        "Questions with worked answers are given to you. Answer the last question in the same way, and end "
        "your reply with: The answer is _ . "
    ),
    "quality": _ONE_OPTION,
    "tpo": _ONE_OPTION,
    "codeU": (
        "A code base with many functions and their comments is given to you. At its end some of these "
        "functions are called. Read code and comments carefully, then answer the question. "
    ),
    "sci_fi": (
        "A science fiction story is given to you, and questions about it whose answer is True or False. "
        "Answer by what the story says, even where the real world is otherwise. "
    ),
}


def system_prompt(task: str) -> str:
    """What stands before everything, or is the system turn of a chat."""
    return _SYSTEM[task]


def prompt(task: str, document: str, instruction: str) -> str:
    """A question about a document."""
    form = _WORKED_OUT if task in ("gsm100", "codeU") else _QUESTION
    return form.format(document=document, instruction=instruction)


def closed_book_prompt(instruction: str) -> str:
    """A question of sci_fi, asked about the real world instead: no document, no system prompt."""
    return _CLOSED_BOOK.format(instruction=instruction.replace(_BY_THE_DOCUMENT, _BY_THE_WORLD))


def shortened(task: str, document: str, limit: int, count: Callable[[str], int]) -> str:
    """``document`` cut to at most ``limit`` tokens; ``count`` tells the tokens of a text.

    As L-Eval cuts: whole words, first as many as ``limit`` has tokens, then 250 fewer at a time. The start
    is kept, of code the end. Raises ValueError when not one word is left.
    """
    words = limit
    while count(document) > limit:
        if words <= 0:
            raise ValueError(f"a document of {task} cannot be cut at its spaces to {limit} tokens")
        parts = document.split(" ")
        document = " ".join(parts[-words:] if task == "codeU" else parts[:words])
        words -= _STEP
    return document
