#!/usr/bin/env bash
# imageio-ffmpeg 0.6.0 (PyPI): a camera's video with a pause in it, as a log gives when frames were dropped: seven frames, a tenth of a second apart, and a second
# without any after the fourth. count_frames_and_secs says 7. read_frames gives 16, the fourth one ten times, so its n-th frame is not the file's n-th and a
# table of times or of labels, one a frame, no longer fits from the pause on. Both ask the same ffmpeg, which evens times out where pictures go down a pipe, and not
# where it only counts; with -fps_mode passthrough there are seven.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet imageio-ffmpeg==0.6.0
cat > show.py <<'EOF'
import subprocess
import sys
import imageio_ffmpeg

# Frame n is an even grey of 40 + 20 n, at n tenths of a second for the first four and a second later for the rest.
source = "color=black:s=64x48:r=10:d=0.7,format=gray,geq=lum=40+20*N,setpts='(N+if(gte(N,4),9,0))/10/TB'"
encode = ["-fps_mode", "passthrough", "-c:v", "libx264", "-qp", "4", "-bf", "0"]
subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, *encode, "-y", "pause.mp4"], check=True)

def greys(**options):
    frames = imageio_ffmpeg.read_frames("pause.mp4", pix_fmt="gray", bits_per_pixel=8, **options)
    next(frames)  # what is known of the file
    return [round((frame[0] - 40) / 20) for frame in frames]

counted, seconds = imageio_ffmpeg.count_frames_and_secs("pause.mp4")
read, told = greys(), greys(output_params=["-fps_mode", "passthrough"])
print("counted", counted, "in", seconds, "s")
print("read   ", len(read), read)
print("read with -fps_mode passthrough", len(told), told)
surprise = counted == 7 and read == [0, 1, 2, 3, *[3] * 9, 4, 5, 6] and told == list(range(7))
print("The frame before the pause is read ten times." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py
