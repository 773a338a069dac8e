"""Measure `tf.data` with `cache()`, in the order that its performance guide gives."""

import os
from typing import Any, Iterator, Tuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
from harness import BATCH, System, mask_of

SIDE = 375


class TfData(System):
    """Decode and resize in parallel, keep bytes, shuffle, batch, then flip and normalise whole batches; prefetch.

    `workers` is the size of its thread pool. Batches have their channels last, as TensorFlow's have.
    """

    packages = ("tensorflow-cpu", "numpy", "pillow")
    layout = "NHWC"

    def prepare(self) -> None:
        work, n = self.work, len(self.files)
        mean, std = (tf.constant(one, tf.float32) * 255 for one in work.stats)

        def decoded(file: Any, mask: Any, place: Any) -> Tuple[Any, Any]:
            x = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
            if self.job.work == "digits":
                return tf.ensure_shape(x, (28, 28, 3)), place
            x = tf.image.resize_with_crop_or_pad(x, SIDE, SIDE)
            x = tf.cast(tf.image.resize(x, (work.size, work.size), "bilinear") + 0.5, tf.uint8)
            if not work.masks:
                return x, place
            y = tf.image.resize_with_crop_or_pad(tf.io.decode_png(tf.io.read_file(mask), 1), SIDE, SIDE)
            return x, tf.image.resize(y, (work.size, work.size), "nearest")

        def drawn(x: Any, target: Any) -> Tuple[Any, Any]:
            if work.masks:
                flips = tf.random.uniform((BATCH, 1, 1, 1)) < 0.5
                x = tf.where(flips, tf.reverse(x, [2]), x)
                target = tf.cast(tf.where(flips, tf.reverse(target, [2]), target), tf.int64)
            elif work.flip:
                x = tf.image.random_flip_left_right(x)
            x = (tf.cast(x, tf.float32) - mean) / std
            return (tf.random.normal((BATCH, work.noise)), x) if work.noise else (x, target)

        masks = [str(mask_of(file)) for file in self.files]
        found = tf.data.Dataset.from_tensor_slices(([str(file) for file in self.files], masks, list(range(n))))
        threads = self.job.workers
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        self.data = (
            found.map(decoded, num_parallel_calls=threads)
            .cache()
            .shuffle(n)
            .batch(BATCH, drop_remainder=True)
            .map(drawn, num_parallel_calls=threads)
            .prefetch(tf.data.AUTOTUNE)
            .with_options(options)
        )

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        return iter(self.data)

    def release(self) -> None:
        del self.data
