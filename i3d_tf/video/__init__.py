import os

# Set before anything loads OpenCV: FFmpeg's own complaints would stand beside our sentences.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
