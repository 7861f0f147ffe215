"""The demo base's tokenizer: one token per kitchen word, byte pieces for everything else."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from latefuse.data.demo import lessons, pictures, words, world

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>")
FRAME_TOKENS = tuple(f"<frame_{k}>" for k in range(1, 17))
SPACE = "Ġ"  # how byte-level text writes a leading space


def vocabulary(more: Sequence[str] = ()) -> list[str]:
    """Every word that the demo's recipes, cards and questions write, and `more`, sorted, without duplicates."""
    texts = [*words.QUESTIONS.values(), *words.COOKS, *lessons.QUESTIONS, *more]
    texts += [value for values in world.ATTRIBUTES.values() for value in values]
    texts += [
        word for table in (world.ALLERGENS, world.ORIGINS) for key, values in table.items() for word in (key, *values)
    ]
    texts += [*pictures.RGB, *world.SHAPES, *world.TECHNIQUES.values()]
    texts += [words.addition_text(name, times) for name in world.INGREDIENTS for times in range(1, world.MAX_TIMES + 1)]
    texts += ["USER: ASSISTANT: ingredients : steps ; add , . none food bits plate on top with no picture clip card"]
    texts += ["card by and : a dish from , traces of no serves ."]
    texts += ["the food is in colour , it is topped with , made of , served on a plate"]
    texts += [form for k in range(1, 13) for form in (str(k), f"{k}.")]
    return sorted({word for text in texts for word in text.replace("{}", " ").split()})


def kitchen_tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A WordPiece over byte-level words: kitchen words and `more` are one token, any other text falls to byte pieces.

    Nothing is ever unknown: the 256 bytes are pieces both at the start of a word and inside it.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *FRAME_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    pieces += [SPACE + word for word in vocabulary(more)]
    ids = {piece: k for k, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.WordPiece(ids, unk_token="<unk>", max_input_chars_per_word=100_000))
    core.normalizer = normalizers.Prepend(" ")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\S+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Replace("##", ""), decoders.Fuse(), decoders.ByteLevel()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "<video>", *FRAME_TOKENS],
        model_max_length=2048,
        prompt_template="v1-plain",
    )
