"""What tf.data is to leave alone."""

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the same dataset without tf.data's autotuning.

    The thread that tunes sleeps up to a minute between two turns.  The notice that its iterator is
    being deleted reaches it before the flag that the notice is about is set; it may find nothing
    new, go on sleeping, and hold up whoever deletes the iterator until its next turn.  Without it,
    a map with `num_parallel_calls=tf.data.AUTOTUNE` makes as many calls at once as there are
    threads, 16 at most.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
