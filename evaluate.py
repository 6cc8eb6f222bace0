"""Scores a run, a bundle or a folder of clips: python evaluate.py --run_dir=runs/taichi-cpu --report=report"""

from mocogan_tf.commands.evaluate import run

if __name__ == "__main__":
    run()
