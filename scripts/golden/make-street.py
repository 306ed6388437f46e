"""Makes golden.json of a street model's validation set: the greedy answers of float32 arithmetic on its weights, by PyTorch.

    python3 scripts/golden/make-street.py MODEL [VAL] [PEER]

MODEL is a checkpoint folder of street-tiny's network; VAL holds val.json and images/ and gets golden.json (default: the tests' fixture);
PEER is the folder of model.py and bpe.py (default: ../shared/peers/torch-street). PyTorch 1.13 and Pillow as Debian 12 has them.
The network is not this package's, so its answers are a reference and not a copy.
"""
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

root = Path(__file__).parents[2]
model = Path(sys.argv[1])
val = Path(sys.argv[2] if len(sys.argv) > 2 else root / "test/fixtures/street-tiny-val")
sys.path.insert(0, str(Path(sys.argv[3]) if len(sys.argv) > 3 else root / "../shared/peers/torch-street"))

from bpe import SYSTEM, Tok, prefix, suffix  # noqa: E402
from model import CFG, VLM, to_px  # noqa: E402

CAMERAS = ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"]
LONGEST = 64


def weights(path):
    """The tensors of a bf16 safetensors file, in float32."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        raw = file.read()
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        bits = np.frombuffer(raw[first:end], np.uint16).astype(np.uint32) << 16
        out[name] = torch.from_numpy(bits.view(np.float32).reshape(entry["shape"]).copy())
    return out


def overlap(answer, truth):
    boxes = [re.search(r"\[\[(\d+),(\d+),(\d+),(\d+)\]\]", text) for text in (answer, truth)]
    if not all(boxes):
        return 0.0
    a, b = ([int(side) for side in box.groups()] for box in boxes)
    area = lambda x: max(0, x[2] - x[0]) * max(0, x[3] - x[1])  # noqa: E731
    both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return both / max(1, area(a) + area(b) - both)


torch.set_num_threads(1)
merges = json.load(open(model / "tokenizer.json"))["model"]["merges"]
tok = Tok([tuple(merge.split(" ")) for merge in merges])
net = VLM(dict(CFG, vocab=tok.n))
net.load_state_dict(weights(model / "model.safetensors"))
net.eval()
tokens_of_views = 6 * (CFG["size"] // 14 // 2) ** 2
head = torch.tensor(prefix(tok, tokens_of_views))
slots = (head == tok.special["<IMG_CONTEXT>"]).nonzero()
first_slot, last_slot = int(slots[0]), int(slots[-1])
stop = tok.special["<|im_end|>"]
language = net.language_model
embed = language.model.embed_tokens


def logits(hidden):
    return language.lm_head(language.model.norm(hidden[0, -1]))


answers, reference, right = [], None, {}
with torch.no_grad():
    for scene, described in json.load(open(val / "val.json")).items():
        for frame, entry in described["key_frames"].items():
            paths = [val / entry["image_paths"][camera] for camera in CAMERAS]
            pixels = to_px(np.stack([np.array(Image.open(path).convert("RGB")) for path in paths]))
            seen, _ = net.feats(pixels)
            rows = embed(head)[None]
            rows = torch.cat([rows[:, :first_slot], seen.reshape(1, -1, seen.shape[-1]), rows[:, last_slot + 1 :]], 1)
            _, kept = language.run(rows, 0)
            for question in (one for layer in entry["QA"].values() for one in layer):
                asked = suffix(tok, question["Q"])
                ids, out, margins, past, position, first = list(asked), [], [], kept, len(head), None
                for _ in range(LONGEST):
                    hidden, past = language.run(embed(torch.tensor([ids])), position, past)
                    position += len(ids)
                    scores = logits(hidden)
                    first = scores if first is None else first
                    best = scores.topk(2).values
                    margins.append(float(best[0] - best[1]))
                    ids = [int(scores.argmax())]
                    if ids[0] == stop:
                        break
                    out.append(ids[0])
                text, truth, tag = tok.dec(out), question["A"], question["tag"]
                correct = overlap(text, truth) >= 0.5 if tag == "locate" else text == truth
                right.setdefault(tag, []).append(correct)
                answers.append(
                    dict(id=question["id"], scene=scene, frame=frame, tag=tag, question=question["Q"], truth=truth,
                         answer=text, tokens=out, correct=bool(correct), margin=round(min(margins), 4))
                )
                if reference is None:
                    reference = dict(
                        id=question["id"], prompt_ids=head.tolist() + asked, image_positions=[first_slot, last_slot],
                        pixel_first8=pixels[0, 0, 0, :8].tolist(), vision_shape=list(seen.shape),
                        vision_first=[[round(x, 6) for x in row[:8].tolist()] for row in seen[:, 0]],
                        vision_norm=[round(float(row.norm()), 5) for row in seen],
                        first_logits_first16=[round(x, 5) for x in first[:16].tolist()],
                        first_top5=[[int(i), round(float(x), 5)] for x, i in zip(*first.topk(5))],
                    )
note = ("Greedy answers of float32 arithmetic on the bf16 weights of model.safetensors. margin: smallest gap between the two best "
        "logits over the answer; below 0.001 another order of summation may change a token.")
prompt = ("<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<img>{96 x <IMG_CONTEXT>}</img>\n{question}<|im_end|>\n"
          "<|im_start|>assistant\n")
golden = dict(note=note, system=SYSTEM, prompt=prompt, reference=reference, answers=answers)
with open(val / "golden.json", "w") as file:
    json.dump(golden, file, indent=1)
for tag, list_ in sorted(right.items()):
    print(f"{tag:9s} {100 * sum(list_) / len(list_):5.1f} % of {len(list_)}")
total = sum(map(sum, right.values())) / len(answers)
print(f"all       {100 * total:5.1f} % of {len(answers)}; {sum(one['margin'] < 1e-3 for one in answers)} near ties")
