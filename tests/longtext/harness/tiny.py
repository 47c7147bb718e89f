"""L-Eval's six tasks with one document each, and a template that takes no system turns."""

STORY = " ".join(f"w{n % 40}" for n in range(900))
QUESTION = {
    "coursera": ("Which? A. B. C.", ["AB", "C"]),
    "gsm100": ("1 + 1?", ["2"]),
    "quality": ("Why?", ["(B) so", "C"]),
    "tpo": ("Who? A. he B. she", ["A", "D", "A"]),
    "codeU": ("What is the final output?", ["2"]),
    "sci_fi": ("Is it? Answer based on the world described in the document.", ["True [fact: False]"] * 2),
}
CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)
# Prompts of these tests are short of it by a few tokens only.
LENGTH = 1024


def one(found):
    (only,) = found
    return only
