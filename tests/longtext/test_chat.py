import pytest

from resrope.longtext.chat import rendered
from resrope.longtext.subject import tokenizer_of

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
GENERATION = "{% if add_generation_prompt %}<assistant>{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
SYSTEM, USER, ASSISTANT = (
    {"role": role, "content": content}
    for role, content in (("system", "Be brief. "), ("user", "Who?"), ("assistant", "I"))
)


@pytest.fixture
def tokenizer(letters):
    """tokenizer(template) -> one that has it."""
    made = tokenizer_of(letters)

    def with_template(template):
        made.chat_template = template
        return made

    return with_template


@pytest.mark.parametrize(
    ("template", "turns", "text"),
    [
        (TURNS, [USER], "<user>Who?<assistant>"),
        (TURNS, [SYSTEM, USER], "<system>Be brief. <user>Who?<assistant>"),
        (NO_SYSTEM + TURNS, [SYSTEM, USER], "<user>Be brief. Who?<assistant>"),
        (
            NO_SYSTEM + TURNS,
            [SYSTEM, USER, ASSISTANT, USER],
            "<user>Be brief. Who?<assistant>I<user>Who?<assistant>",
        ),
    ],
)
def test_turns_as_the_template_writes_them(tokenizer, template, turns, text):
    assert rendered(tokenizer(template + GENERATION), turns) == text


def test_the_last_turn_may_be_left_open(tokenizer):
    closed = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}" + GENERATION
    assert rendered(tokenizer(closed), [USER, ASSISTANT], add_generation_prompt=False) == (
        "<user>Who?</user><assistant>I"
    )


@pytest.mark.parametrize(
    ("template", "turns", "why"),
    [
        ("{{ raise_exception('tools\nonly') }}", [USER], "tools only"),
        ("{{ raise_exception('tools only') }}", [SYSTEM, USER], "tools only"),
        (NO_SYSTEM, [SYSTEM], "no system"),
        ("{% if messages[1:] %}{{ raise_exception('one turn') }}{% endif %}", [USER, USER], "one turn"),
        ("{% for %}", [USER], "Expected .*"),
    ],
)
def test_a_template_that_cannot_be_used(tokenizer, template, turns, why):
    with pytest.raises(
        ValueError, match=f"letters.*model: its chat template cannot be used: {why}$"
    ) as caught:
        rendered(tokenizer(template), turns)
    assert "\n" not in str(caught.value)
