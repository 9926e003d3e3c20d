"""Keypoint skeletons: joint names, left/right pairs, OKS sigmas, limbs and half-body sets. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.errors import ConfigError, suggest


@dataclass(frozen=True)
class Skeleton:
    """The joints of one kind of data set.

    Attributes:
        name: how presets and config files refer to it.
        joints: the K joint names in annotation order.
        sigmas: the K per-joint OKS constants (COCO writes k_i = 2·sigma_i).
        flip_pairs: index pairs that change places when the image is mirrored.
        limbs: index pairs to draw as bones.
        upper_body: joint indices of the upper half; all others are the lower half (half-body augmentation).
            Without any there is no such augmentation.

    Raises:
        ConfigError: another number of sigmas than joints, a sigma that is not between 0 and 1, a joint named
            or paired twice, or an index beyond the joints.
    """

    name: str
    joints: tuple[str, ...]
    sigmas: tuple[float, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sigmas) != len(self.joints):
            raise ConfigError(
                f"skeleton {self.name}: {len(self.sigmas)} sigmas for {len(self.joints)} joints",
                "give one for each joint",
            )
        if bad := [sigma for sigma in self.sigmas if not sigma > 0]:
            raise ConfigError(f"skeleton {self.name}: sigma {bad[0]} is not above 0")
        if bad := [sigma for sigma in self.sigmas if sigma >= 1]:  # as many px as a person is large
            raise ConfigError(
                f"skeleton {self.name}: sigma {bad[0]} is not below 1",
                "COCO's are 0.025 to 0.107; those in pycocotools' source are to be divided by 10",
            )
        if twice := [name for name in self.joints if self.joints.count(name) > 1]:
            raise ConfigError(f"skeleton {self.name}: joint {twice[0]!r} is there twice")
        used = [*self.upper_body, *(i for pair in (*self.flip_pairs, *self.limbs) for i in pair)]
        if beyond := [i for i in used if not 0 <= i < len(self.joints)]:
            raise ConfigError(
                f"skeleton {self.name}: index {beyond[0]} is beyond its {len(self.joints)} joints",
                "flip_pairs, limbs and upper_body count from 0",
            )
        mirrored = [i for pair in self.flip_pairs for i in pair]
        if twice := [self.joints[i] for i in mirrored if mirrored.count(i) > 1]:
            raise ConfigError(f"skeleton {self.name}: {twice[0]!r} is in flip_pairs twice")

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def flip_permutation(self) -> tuple[int, ...]:
        """Index vector p (K,) such that joints[p] is the mirrored person's joints in annotation order."""
        order = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)


# fmt: off
COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
        "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
        0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
        (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    upper_body=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
)

CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    joints=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
    ),
    sigmas=(
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    limbs=(
        (10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5),
        (12, 13), (13, 0), (13, 1),
    ),
    upper_body=(0, 1, 2, 3, 4, 5, 12, 13),
)

# fmt: on
SKELETONS = {s.name: s for s in (COCO17, CROWDPOSE14)}


def skeleton(name: str) -> Skeleton:
    """The skeleton called ``name``.

    Raises:
        ConfigError: no skeleton has that name.
    """
    try:
        return SKELETONS[name]
    except KeyError:
        raise ConfigError(f"unknown skeleton {name!r}", suggest(name, SKELETONS)) from None
