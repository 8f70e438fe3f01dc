"""Where the time of DANet-ResNet50 on torch goes, 512x1024, float32.

KERAS_BACKEND=torch python benchmarks/profile_torch.py
"""

import ours
from torch.profiler import profile


def main():
    call = ours.forward(50, 512, 1024, jit=False)
    call()
    with profile() as profiler:
        call()
    rows = sorted(
        profiler.key_averages(),
        key=lambda row: row.self_cpu_time_total,
        reverse=True,
    )
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"{total / 1e6:.2f} s")
    for row in rows[:10]:
        share = row.self_cpu_time_total / total
        print(f"{share:6.1%} {row.count:4} x {row.key}")


if __name__ == "__main__":
    main()
