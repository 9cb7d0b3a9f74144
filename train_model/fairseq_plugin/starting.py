"""``--start-from``: a network to train that begins with the weights of a checkpoint."""

import argparse
import dataclasses
from typing import Any

from torch import nn

from train_model.cli import UserError
from train_model.models.checkpoint import load_checkpoint
from train_model.models.config import is_training_option
from train_model.quantization.training import make_trainable


def network_to_train(
    cls: type[nn.Module], config_type: type, args: argparse.Namespace, task: Any
) -> Any:
    """Return a network ``cls`` for the task's dictionaries, with random weights or those of ``--start-from``.

    The checkpoint determines the network, and which layers compute in INT8. Dropout and the loss come from
    ``args``, since a model that was stored for translating does not have them. ``args`` receives the options
    that are used, for the new checkpoint.

    Args:
        cls: the network's class, made of a configuration.
        config_type: the class of its configuration.
        args: fairseq's options.
        task: fairseq's task with both dictionaries.

    Raises:
        UserError: the checkpoint cannot be read, is of another architecture or has other dictionaries.
    """
    words = len(task.source_dictionary), len(task.target_dictionary)
    if not getattr(args, "start_from", None):
        return cls(config_type.from_args(args, *words))
    start = load_checkpoint(args.start_from)
    if not isinstance(start.config, config_type):
        raise UserError(
            f"{args.start_from} is a {start.kind}, not the network of --arch; start from a network that "
            "this recipe trains"
        )
    if (start.config.src_vocab, start.config.tgt_vocab) != words:
        raise UserError(
            f"{args.start_from} knows {start.config.src_vocab} and {start.config.tgt_vocab} words, "
            f"the corpus has {words[0]} and {words[1]}; start from a network of this corpus"
        )
    given = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(config_type)
        if is_training_option(field.name) and hasattr(args, field.name)
    }
    config = dataclasses.replace(start.config, **given)
    vars(args).update(vars(config.to_args()))
    model = cls(config)
    model.load_state_dict(start.model.state_dict())
    if config.int8_layers:
        make_trainable(model, config.int8_layers)
    return model
