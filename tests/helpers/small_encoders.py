"""Small encoders of many architectures, saved into a folder with a tokenizer of whole words."""

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from reproduce_kit.testing.fake_hub import fake_words

SHAPE = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    vocab_size=606,
)
BERT_STYLE, ROBERTA_STYLE = ('[CLS]', '[SEP]', '[SEP]'), ('<s>', '</s></s>', '</s>')
ARCHITECTURES = {  # model_type: (how two texts are joined, further keys of config.json)
    'bert': (BERT_STYLE, dict()),
    'electra': (BERT_STYLE, dict(embedding_size=16)),
    'albert': (BERT_STYLE, dict(embedding_size=16)),
    'distilbert': (BERT_STYLE, dict()),
    'deberta-v2': (BERT_STYLE, dict(relative_attention=True, pos_att_type=['p2c', 'c2p'])),
    'roberta': (ROBERTA_STYLE, dict()),
    'xlm-roberta': (ROBERTA_STYLE, dict()),
    'camembert': (ROBERTA_STYLE, dict()),
    'modernbert': (BERT_STYLE, dict(cls_token_id=2, sep_token_id=3, global_attn_every_n_layers=2)),
}


def write_tokenizer(folder, style):
    """A tokenizer of whole words that joins two texts as an architecture wants it."""
    begin, between, end = style
    special = ['<pad>', '<unk>', begin, end]
    words = [*special, *dict.fromkeys(fake_words())]
    vocabulary = {word: number for number, word in enumerate(words[: SHAPE['vocab_size']])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    middle = ' '.join([end] * between.count(end))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{begin} $A {end}',
        pair=f'{begin} $A {middle} $B:1 {end}:1',
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token='<pad>',
        unk_token='<unk>',
        cls_token=begin,
        sep_token=end,
        model_max_length=128,
    )
    fast.save_pretrained(str(folder))


def save_backbone(study, model_type) -> dict:
    """Save a small encoder of an architecture into the clone; return its entry of the file."""
    style, more = ARCHITECTURES[model_type]
    folder = study / 'models' / model_type
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(model_type, **SHAPE | more, pad_token_id=0)
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(str(folder))
    write_tokenizer(folder, style)
    shape = dict(model_type=model_type) | SHAPE
    return dict(title=model_type, folder=f'models/{model_type}', licence='MIT', shape=shape)
