"""Why does a network see what it sees?"""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.explain.activation import METHODS as METHODS
    from keras_danet.explain.activation import (
        class_activation as class_activation,
    )
    from keras_danet.explain.channels import (
        ChannelAttention as ChannelAttention,
    )
    from keras_danet.explain.channels import ChannelClasses as ChannelClasses
    from keras_danet.explain.channels import (
        channel_attention as channel_attention,
    )
    from keras_danet.explain.channels import channel_classes as channel_classes
    from keras_danet.explain.channels import grouped as grouped
    from keras_danet.explain.explanation import Explainer as Explainer
    from keras_danet.explain.explanation import Explanation as Explanation
    from keras_danet.explain.notebook import Widget as Widget
    from keras_danet.explain.notebook import widget as widget
    from keras_danet.explain.position import ClassAttention as ClassAttention
    from keras_danet.explain.position import class_attention as class_attention
    from keras_danet.explain.position import (
        position_attention as position_attention,
    )
    from keras_danet.explain.position import reach as reach
    from keras_danet.explain.switching import Contribution as Contribution
    from keras_danet.explain.switching import contribution as contribution
    from keras_danet.explain.switching import without as without

_HOMES = {
    "METHODS": "activation",
    "ChannelAttention": "channels",
    "ChannelClasses": "channels",
    "ClassAttention": "position",
    "Contribution": "switching",
    "Explainer": "explanation",
    "Explanation": "explanation",
    "Widget": "notebook",
    "channel_attention": "channels",
    "channel_classes": "channels",
    "class_activation": "activation",
    "class_attention": "position",
    "contribution": "switching",
    "grouped": "channels",
    "position_attention": "position",
    "reach": "position",
    "widget": "notebook",
    "without": "switching",
}
__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
