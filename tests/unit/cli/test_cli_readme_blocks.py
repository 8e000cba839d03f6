"""Which commands of a document are run, and how."""

import pytest

from tests.support.readme import Block, blocks

TEXT = """
Text, and a block that is only shown:

```sh
rm -rf /
```

<!-- run -->
```sh
# a comment
export NATS_URL=nats://localhost
$ nats req a \\
    'b'
./dev run sidecar jobs
```

<!-- run: exit 3 -->

```bash
sidecar get x
```

<!-- run: background -->
```console
nats sub a
```
"""


def test_marked_blocks_are_found_with_their_commands() -> None:
    assert blocks(TEXT) == [
        Block(8, ("nats req a      'b'", "sidecar jobs")),
        Block(17, ("sidecar get x",), exit_code=3),
        Block(23, ("nats sub a",), is_background=True),
    ]


@pytest.mark.parametrize("text", ["<!-- run: often -->\n```sh\na\n```\n", "<!-- run -->\nnothing fenced\n"])
def test_a_mark_without_a_meaning_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="run"):
        blocks(text)
