"""Prepares clips for training: python prepare.py SOURCE --out=DIR"""

from mocogan_tf.commands.prepare import run

if __name__ == "__main__":
    run()
