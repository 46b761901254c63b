"""Mean and standard deviation of ImageNet's pixels, which every public Hiera was trained with."""

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD"]

# Of RGB in 0..255: torchvision's 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 times 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
