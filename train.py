"""Trains MoCoGAN, or a baseline: python train.py --dataset=taichi [--model=vgan]"""

from mocogan_tf.commands.train import run

if __name__ == "__main__":
    run()
