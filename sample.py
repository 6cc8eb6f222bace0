"""Writes clips of a trained generator: python sample.py --run_dir=runs/taichi-cpu --out=samples"""

from mocogan_tf.commands.sample import run

if __name__ == "__main__":
    run()
