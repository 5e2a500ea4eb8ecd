"""Small models from scratch."""

from mm1_lab.config import Size
from mm1_lab.model import MM1, MM1Config
from mm1_lab.model.decoder import decoder_config, initialise
from mm1_lab.model.towers import encoder_config


def small_mm1(
    encoder: Size, decoder: Size, connector: str, vocabulary: int, sequence: int, image_id: int, side: int = 24
) -> MM1:
    """With patches of 6 pixels a side, and four tokens for an image."""
    config = MM1Config(
        encoder_config=encoder_config(encoder, 6, side),
        text_config=decoder_config(decoder, vocabulary, sequence),
        connector={"kind": connector, "image_tokens": 4, "width": 16},
        image_token_id=image_id,
    )
    model = MM1(config)
    initialise(model.decoder)
    return model
