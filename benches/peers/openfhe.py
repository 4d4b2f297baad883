#!/usr/bin/env python3
"""Times OpenFHE and this library side by side: rotation, product and relinearisation, rescale, bootstrapping.

Optional. It needs OpenFHE's wheel, which is built for Python 3.10 (the newest releases also for 3.12):

    python3.10 -m venv /somewhere/openfhe && /somewhere/openfhe/bin/pip install openfhe
    cargo build --release --locked -p peregrine-ckks --examples
    /somewhere/openfhe/bin/python benches/peers/openfhe.py [--threads 1] [--bootstrap] [--json]

Both sides run one after the other in this one process tree, at N = 2^16 and 128-bit security:

* primitives: 24 primes of 50 bits and three digits. OpenFHE chooses special primes of 60 bits, ours have 50.
* --bootstrap: full slots, an encapsulated sparse secret, SlotsToCoeffs first. OpenFHE needs scales of 56 bits or more for a
  comparable precision. It takes about five minutes and 13 GiB, most of it OpenFHE's keys.

--insecure-log-n N tries the script itself on a small ring; its figures mean nothing.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--bootstrap", action="store_true", help="also bootstrapping: minutes, 13 GiB")
    parser.add_argument("--examples", type=pathlib.Path, default=ROOT / "target/release/examples")
    parser.add_argument("--insecure-log-n", type=int, help="ring for trying the script")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def median(runs, work):
    """Median seconds after one run for warming up."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def parameters(fhe, args, bits, first_bits, depth, digits, secret):
    p = fhe.CCParamsCKKSRNS()
    p.SetMultiplicativeDepth(depth)
    p.SetScalingModSize(bits)
    p.SetFirstModSize(first_bits)
    p.SetScalingTechnique(fhe.FIXEDMANUAL)
    p.SetKeySwitchTechnique(fhe.HYBRID)
    p.SetNumLargeDigits(digits)
    p.SetSecretKeyDist(secret)
    if args.insecure_log_n:
        p.SetSecurityLevel(fhe.HEStd_NotSet)
        p.SetRingDim(1 << args.insecure_log_n)
    else:
        p.SetSecurityLevel(fhe.HEStd_128_classic)
        p.SetRingDim(1 << 16)
    return p


def context(fhe, p):
    cc = fhe.GenCryptoContext(p)
    features = (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE, fhe.ADVANCEDSHE, fhe.FHE)
    for feature in features:
        cc.Enable(feature)
    return cc


def values(count):
    return [((37 * i) % 97) / 97 - 0.5 for i in range(count)]


def primitives_of_openfhe(fhe, args):
    cc = context(fhe, parameters(fhe, args, 50, 50, 23, 3, fhe.UNIFORM_TERNARY))
    keys = cc.KeyGen()
    cc.EvalMultKeyGen(keys.secretKey)
    cc.EvalRotateKeyGen(keys.secretKey, [1])
    slots = cc.GetRingDimension() // 2
    ct = cc.Encrypt(keys.publicKey, cc.MakeCKKSPackedPlaintext(values(slots)))
    product = cc.EvalMult(ct, ct)
    precomputed = cc.EvalFastRotationPrecompute(ct)
    order = 2 * cc.GetRingDimension()
    return {
        "rotation": median(args.runs, lambda: cc.EvalRotate(ct, 1)),
        "hoisted_rotation": median(args.runs, lambda: cc.EvalFastRotation(ct, 1, order, precomputed)),
        "mul_relin": median(args.runs, lambda: cc.EvalMult(ct, ct)),
        "rescale": median(args.runs, lambda: cc.Rescale(product)),
    }


def bootstrap_of_openfhe(fhe, args):
    budget, after = [4, 3], 5
    secret = fhe.SPARSE_ENCAPSULATED
    depth = after + fhe.CryptoContext.GetBootstrapDepth(budget, secret)
    p = parameters(fhe, args, 56, 60, depth, 5, secret)
    p.SetScalingTechnique(fhe.FLEXIBLEAUTO)
    cc = context(fhe, p)
    slots = cc.GetRingDimension() // 2
    cc.EvalBootstrapSetup(budget, [0, 0], slots, 0, True, True)
    keys = cc.KeyGen()
    cc.EvalMultKeyGen(keys.secretKey)
    cc.EvalBootstrapKeyGen(keys.secretKey, slots)
    clear = values(slots)
    # SlotsToCoeffs first takes its levels from the input.
    level = depth - 1 - budget[1]
    ct = cc.Encrypt(keys.publicKey, cc.MakeCKKSPackedPlaintext(clear, 1, level, None, slots))
    seconds, refreshed = [], None
    for _ in range(3):
        start = time.perf_counter()
        refreshed = cc.EvalBootstrapStCFirst(ct)
        seconds.append(time.perf_counter() - start)
    message = cc.Decrypt(refreshed, keys.secretKey)
    message.SetLength(slots)
    worst = max(abs(x - y) for x, y in zip(message.GetRealPackedValue(), clear))
    return {
        "seconds": statistics.median(seconds),
        "precision_bits_min": -math.log2(worst),
        "levels": depth - refreshed.GetLevel(),
    }


def ours(args, example, *extra):
    program = args.examples / example
    if not program.exists():
        sys.exit(f"{program} is missing; build it: cargo build --release --locked -p peregrine-ckks --examples")
    command = [str(program), "--threads", str(args.threads), "--json", *extra]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    args = arguments()
    # Read when the library is loaded.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    # This script has the library's name.
    sys.path.remove(str(pathlib.Path(__file__).resolve().parent))
    try:
        import openfhe as fhe
    except ImportError as error:
        sys.exit(f"OpenFHE does not load in Python {sys.version.split()[0]} ({error}); see the head of {__file__}")
    report = {"threads": args.threads}
    log_n = args.insecure_log_n or 16
    mine = None if args.insecure_log_n else ours(args, "primitives", "--runs", str(args.runs))
    theirs = primitives_of_openfhe(fhe, args)
    for name, seconds in theirs.items():
        own = mine[f"{name}_seconds"] if mine else float("nan")
        report[name] = {"openfhe": seconds, "ours": own, "ratio": seconds / own}
    if args.bootstrap:
        mine = {} if args.insecure_log_n else ours(args, "bootstrap")
        peer = bootstrap_of_openfhe(fhe, args)
        own = mine.get("seconds", float("nan"))
        report["bootstrap"] = {"openfhe": peer["seconds"], "ours": own, "ratio": peer["seconds"] / own}
        report["bootstrap_detail"] = {"openfhe": peer, "ours": mine}
    if args.json:
        print(json.dumps(report))
        return
    print(f"N = 2^{log_n}, {args.threads} thread(s), milliseconds: OpenFHE, ours, ratio")
    for name, line in report.items():
        if isinstance(line, dict) and "ratio" in line:
            print(f"{name:<18} {1e3 * line['openfhe']:>10.1f} {1e3 * line['ours']:>10.1f} {line['ratio']:>8.1f}")
    if args.bootstrap:
        peer, mine = report["bootstrap_detail"]["openfhe"], report["bootstrap_detail"]["ours"]
        print(f"OpenFHE: {peer['precision_bits_min']:.1f} bits in the worst slot, {peer['levels']} levels of 56 bits left, one ciphertext")
        if mine:
            print(
                f"ours:    {mine['precision_bits_min']:.1f} bits in the worst slot, {mine['usable_bits']:.0f} bits usable, two real ciphertexts"
            )


if __name__ == "__main__":
    main()
