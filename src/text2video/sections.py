"""The sections of a run's configuration, and what each of their fields means."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .errors import UsageError
from .sizes import Bucket, parse_all

Positive = Annotated[int, Field(gt=0)]
Level = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
DENOISERS = ("unet3d", "latent_unet", "transformer")
CODECS = ("vae", "tokenizer")
GANS = ("vgan", "mocogan", "dvdgan")
# `model.kind` -> the fields of `ModelConfig` that its architecture has.
UNET = ("model_channels", "channel_mult", "num_res_blocks", "attention", "head_dim")
FIELDS = {
    "unet3d": (*UNET, "downsample_time", "patch_size", "conv"),
    "latent_unet": UNET,
    "transformer": ("size", "patch_size", "time_attention"),
    "vae": (),
    "tokenizer": (),
    "autoregressive": ("size",),
    **dict.fromkeys(GANS, ()),
}
# `model.kind` -> defaults that are others than the fields' own.
DEFAULTS: dict[Any, dict[str, Any]] = {
    "latent_unet": {"model_channels": 64, "attention": ["factorised"] * 3, "head_dim": 32}
}
# Section -> fields of it that the model decides, where a run starts from one.
DECIDED = {
    "model": (*dict.fromkeys(name for names in FIELDS.values() for name in names), "kind", "model_class", "model_args"),
    "text": ("text_width", "text_layers", "max_tokens"),
    "diffusion": ("schedule", "num_timesteps", "shift", "prediction"),
    "preview": ("guidance_interval", "sampling_shift"),
}


class Section(BaseModel):
    """Strict: what is not known is refused, also where it is set later."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, validate_assignment=True, protected_namespaces=(), allow_inf_nan=False
    )


class ShapesConfig(Section):
    """The demo world, rendered on the fly in place of files."""

    clips: Positive = Field(2000, description="number of clips")
    shapes_seed: int = Field(0, description="seed of the demo world")
    world: Literal["small", "full", "moon"] = Field("small", description="how rich the demo world is")
    max_objects: Literal[1, 2, 3] = Field(1, description="objects in a scene, at most: 2, in the world full 3")

    @model_validator(mode="after")
    def _hold(self) -> "ShapesConfig":
        if self.max_objects > {"small": 2, "full": 3, "moon": 1}[self.world]:
            raise ValueError(
                f"max_objects is {self.max_objects}: the demo world small holds 1 or 2, full up to 3, moon 1"
            )
        return self


class DataConfig(Section):
    """Which clips, and what a model sees of them."""

    data_dir: Path | None = Field(None, description="folder of the data set, or its videos folder with caption_file")
    caption_file: Path | None = Field(None, description="JSON of {video name: caption}")
    data_root: Path | None = Field(None, description="folder that listed paths are relative to")
    dataset_file: Path | None = Field(None, description="table, tar shard or TOML description of clips")
    caption_column: str | None = Field(None, description="caption column, or text file of captions in data_root")
    video_column: str | None = Field(None, description="video column, or text file of paths in data_root")
    layout: str | None = Field(None, description="layout name; found out when not given")
    load_tensors: Path | None = Field(None, description="folder of `data prepare`, in place of clips")
    shapes: ShapesConfig | None = Field(None, description="demo world in place of files")
    dataset_class: str | None = Field(None, description="your subclass of TextVideoDataset, as module:Class")
    num_frames: Positive = Field(16, description="frames of a training clip")
    frame_size: Positive = Field(64, description="height and width in pixels")
    height: Positive | None = Field(None, description="height in pixels, in place of frame_size")
    width: Positive | None = Field(None, description="width in pixels, in place of frame_size")
    buckets: list[str] = Field(
        [], description="shapes FRAMESxHEIGHTxWIDTH that clips go to, auto, or native; none: one shape for all"
    )
    pack: Positive | None = Field(
        None, description="tokens of a batch, in which clips of any shapes lie in one row; needs a transformer"
    )
    upscale: bool = Field(False, description="let clips be enlarged to fill a bucket")
    fps: Annotated[float, Field(gt=0)] | None = Field(None, description="frames a second; none: evenly over the clip")
    short: Literal["repeat_last", "loop", "error"] = Field("repeat_last", description="what to do with shorter clips")
    augment: bool = Field(False, description="vary frames and captions where captions stay true")
    caption_dropout: Fraction = Field(0.1, description="share of captions emptied, for guidance")
    caption_prefix: str = Field("", description="trigger word put before every caption")
    repeats: dict[str, Positive] = Field(
        {}, description="how often clips are seen in an epoch: {'videos/new-*': 10}; others once"
    )
    max_samples: Positive | None = Field(None, description="use the first clips only, for debugging")
    val_fraction: Fraction = Field(0.05, description="share of clips kept for the validation loss")
    num_workers: Annotated[int, Field(ge=0)] = Field(2, description="loader processes")

    @property
    def source(self) -> dict[str, Any]:
        """Where the clips are and how they lie there: the arguments of `read_layout`."""
        names = ("data_dir", "caption_file", "data_root", "dataset_file", "caption_column", "video_column", "layout")
        return {name: getattr(self, name) for name in names}

    def require(self) -> None:
        """Whether any data is named.

        Raises:
            UsageError: none is.
        """
        if not (self.shapes or self.load_tensors or self.data_dir or self.data_root or self.dataset_file):
            raise UsageError(
                "No data was named. Give --data_dir, --data_root, --dataset_file or --load_tensors; --shapes tries the "
                "demo world."
            )
        if self.repeats and self.shapes:
            raise UsageError("--repeats is for clips in files, and those of the demo world are drawn: leave it out.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height or self.frame_size, self.width or self.frame_size

    @property
    def shape(self) -> Bucket:
        """The shape of all clips where there are no buckets, and the largest of those that auto derives."""
        return Bucket(self.num_frames, *self.size)

    @property
    def sampling(self) -> dict[str, Any]:
        """What is taken of each clip where there are no buckets: arguments of `check` and of `TextVideoDataset`."""
        height, width = self.size
        return {"num_frames": self.num_frames, "fps": self.fps, "height": height, "width": width, "short": self.short}

    @field_validator("buckets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("buckets")
    @classmethod
    def _are_buckets(cls, value: list[str]) -> list[str]:
        buckets = parse_all(value)
        if isinstance(buckets, str):
            return value
        names = [str(bucket) for bucket in buckets]
        if len(set(names)) < len(names):
            raise ValueError(f"data.buckets names the same bucket twice: {' '.join(names)}")
        return names


class ConditionConfig(Section):
    """One thing that videos are made by besides their captions."""

    kind: str | None = Field(None, description="see `models.conditions`, or your class as module:Class; none: its name")
    source: str | None = Field(None, description="folder with a file a clip, or column of the table; none: its name")
    dropout: Fraction = Field(0.1, description="share of clips that are not told it")
    guidance_scale: float = Field(1.0, description="how closely to follow it in generation; 1: as learned")
    args: dict[str, Any] = Field({}, description="further arguments of its kind")


class ModelConfig(Section):
    """What is trained. The architectures' classes say what each argument means: see docs/models.md."""

    kind: Literal[
        "unet3d", "latent_unet", "transformer", "vae", "tokenizer", "autoregressive", "vgan", "mocogan", "dvdgan"
    ] = Field(
        "unet3d",
        description="architecture: a denoiser; vae or tokenizer, which give back videos; autoregressive, over tokens; "
        "or the generator of a GAN",
    )
    codec: Path | None = Field(
        None,
        description="folder of a video autoencoder, ours or diffusers'; none: pixels are denoised; autoregressive: "
        "folder of a video tokenizer",
    )
    model_class: str | None = Field(None, description="your subclass of the architecture, as module:Class")
    model_args: dict[str, Any] = Field({}, description="further arguments of that class")
    patch_size: list[Positive] = Field(
        [], description="patch (frames, height, width) that becomes one position; none: 1 1 1, transformer 1 2 2"
    )
    size: Literal["5M", "30M", "130M", "450M", "1B", "3B", "7B", "14B"] = Field(
        "30M", description="transformer and autoregressive: parameters, see SIZES"
    )
    time_attention: Literal["full", "factorised", "causal"] = Field(
        "full", description="transformer: who sees whom along time"
    )
    model_channels: Positive = Field(128, description="width of the first level")
    channel_mult: list[float] = Field([1, 2, 4], description="width of each level, in model_channels")
    num_res_blocks: Positive = Field(2, description="residual blocks a level")
    attention: list[Literal["none", "space", "time", "factorised", "full", "causal"]] = Field(
        ["time", "factorised", "factorised"], description="self-attention of each level"
    )
    downsample_time: list[bool] = Field([False, False], description="whether a step to the next level halves frames")
    conv: Literal["3d", "factorised", "2d"] = Field(
        "3d", description="3D convolutions, space then time, or 2d: single frames"
    )
    head_dim: Positive = Field(64, description="width of an attention head")

    conditions: dict[str, ConditionConfig] = Field(
        {}, description="what videos are made by besides captions: {name: {kind: ..., dropout: ...}}"
    )

    @field_validator("conditions", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return {name: {} for name in value}
        return {name: own or {} for name, own in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_kind(cls, values: Any) -> Any:
        return {**DEFAULTS.get(str(values.get("kind")), {}), **values} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _has_fields_of_kind(self) -> "ModelConfig":
        fields = type(self).model_fields
        for name in sorted({name for names in FIELDS.values() for name in names} - {*FIELDS[self.kind]}):
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"model.kind is {self.kind}, which has no model.{name}: leave it out")
        return self


class TextConfig(Section):
    """What reads the captions."""

    text_encoder: str = Field("builtin", description="builtin, clip, t5, a Hugging Face name or a folder")
    frozen: bool = Field(
        False, description="keep the built-in encoder of a folder as it is; pretrained ones always are"
    )
    text_width: Positive = Field(256, description="width of the built-in encoder")
    text_layers: Positive = Field(2, description="layers of the built-in encoder")
    vocab_size: Positive = Field(4096, description="largest vocabulary of the built-in tokenizer")
    max_tokens: Positive = Field(77, description="tokens a caption can have, of the built-in encoder")

    @model_validator(mode="after")
    def _frozen_one_has_learned(self) -> "TextConfig":
        if self.frozen and self.text_encoder == "builtin":
            raise ValueError(
                "text.frozen is for an encoder that was trained before, and a new built-in one has learned nothing: "
                "name a folder by --text_encoder, or leave out --frozen"
            )
        return self


class DiffusionConfig(Section):
    """What the denoiser learns to predict, and how noise is laid on."""

    objective: str | None = Field(None, description="your subclass of TextToVideoDiffusion, as module:Class")
    schedule: Literal["cosine", "linear", "scaled_linear", "flow"] = Field("cosine", description="noise schedule")
    num_timesteps: Positive = Field(1000, description="training timesteps")
    shift: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        1.0, description="flow: above 1 more noise, for larger videos; auto: by each video's size"
    )
    prediction: Literal["epsilon", "v", "x0", "flow"] = Field("epsilon", description="what the model predicts")
    weighting: Literal["uniform", "min_snr"] = Field("uniform", description="loss weight over noise levels")
    min_snr_gamma: Annotated[float, Field(gt=0)] = Field(5.0, description="gamma of min-SNR weighting")
    edge_weight: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the error's differences in space")
    timesteps: Literal["uniform", "logit_normal"] | None = Field(
        None, description="how timesteps are drawn; none: as the pretrained family does, else uniform"
    )
    logit_mean: float = Field(0.0, description="mean of logit-normal timesteps; higher: more noise")
    logit_std: Annotated[float, Field(gt=0)] = Field(1.0, description="width of logit-normal timesteps")
    forcing: Literal["none", "independent"] = Field(
        "none", description="independent: a noise level for each causal block, as streaming wants it"
    )


class VaeConfig(Section):
    """What a video autoencoder or tokenizer learns, where model.kind is vae or tokenizer."""

    reconstruction: Literal["mse", "log_mse", "l1", "huber"] = Field(
        "mse", description="what counts of a pixel's error; log_mse: each clip's mean square as its PSNR does"
    )
    kl_weight: Annotated[float, Field(ge=0)] = Field(1e-6, description="weight of the latents' KL divergence")
    perceptual_weight: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of perceptual features' error")
    perceptual_model: Path | None = Field(
        None, description="folder of a CLIP vision model for these features; none: normalised Laplacian pyramids"
    )
    adversarial_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of a discriminator's judgement; 0: there is none"
    )
    adversarial_start: Annotated[int, Field(ge=0)] = Field(1000, description="step at which the discriminator begins")
    discriminator_width: Positive = Field(64, description="channels of its first layer")
    measured_clips: Positive = Field(
        64, description="training clips that the linear code is fitted to, and that the latents are measured on"
    )


class OptimConfig(Section):
    """How weights move."""

    optimizer: str = Field("adamw", description="adamw, adamw8bit, muon, or your class as module:Class")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-4, description="highest learning rate")
    muon_learning_rate: Annotated[float, Field(gt=0)] = Field(0.02, description="muon: of hidden matrices")
    lr_schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(500, description="steps of linear warm-up")
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="last learning rate over the highest")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW betas")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="AdamW weight decay, on matrices")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradient clipping")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.9999, description="averaging of weights; 0: none")
    spatial: Literal["free", "frozen", "lora"] = Field(
        "free", description="layers of a model of images that was started from: free, frozen, or low-rank"
    )
    spatial_rank: Positive = Field(16, description="rank of their change, where spatial is lora")


class LoraConfig(Section):
    """Low-rank adapters, trained in place of the denoiser's own weights."""

    rank: Positive = Field(16, description="rank of the adapters")
    alpha: Annotated[float, Field(gt=0)] | None = Field(None, description="their weight is alpha / rank; none: 1")
    targets: list[str] = Field([], description="names, or ends of names, of layers; none: the family's own")
    rslora: bool = Field(False, description="weight alpha / sqrt(rank), for high ranks")
    dora: bool = Field(False, description="train the length of each weight row apart from its direction")
    lora_dropout: Fraction = Field(0.0, description="dropout before the adapters")


class MemoryConfig(Section):
    """How the frozen weights of a pretrained model are held while an adapter is trained."""

    quantize: Literal["int8", "fp8", "nf4"] | None = Field(
        None, description="fewer bits: int8 and fp8 need torchao, nf4 needs bitsandbytes and an NVIDIA GPU"
    )
    layerwise_casting: bool = Field(False, description="as fp8, cast while a layer computes; needs no library")
    block_offload: bool = Field(False, description="in RAM, and on the GPU block by block; slower")


class TrainConfig(Section):
    """How long, how large, how precise, and what is kept."""

    num_epochs: Positive = Field(1000, description="passes over the data")
    max_steps: Positive | None = Field(None, description="stop after this many steps")
    batch_size: Positive = Field(4, description="clips a process and micro-step")
    gradient_accumulation_steps: Positive = Field(1, description="micro-steps a step")
    last_batch: Literal["wait", "smaller"] = Field(
        "wait", description="clips that fill no batch at an epoch's end: wait for the next, or make a smaller one"
    )
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = Field(
        "no", description="auto: bf16 where this machine computes it fast; bare flag: bf16"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about a third more time")
    sharding: Literal["none", "full"] = Field(
        "none", description="full: each of several processes holds a share of the weights (FSDP2), none: all of them"
    )
    compile: bool = Field(False, description="torch.compile, where a compiler is found")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    init_from: Path | None = Field(None, description="model folder to start from")
    motion_adapter: Path | None = Field(None, description="AnimateDiff: motion adapter, where the model is of images")
    save_steps: Positive = Field(500, description="steps between checkpoints")
    keep_checkpoints: Positive = Field(3, description="newest checkpoints kept; the best one always is")
    eval_steps: Positive = Field(500, description="steps between validation losses")
    val_samples: Positive = Field(64, description="samples in the validation loss: clips, noise and levels")

    @property
    def parts(self) -> dict[str, Path]:
        """Parts of the model that lie beside it: name -> folder."""
        return {} if self.motion_adapter is None else {"motion_adapter": self.motion_adapter}


class PreviewConfig(Section):
    """Videos sampled while training, and how the finished model samples when it is not told otherwise."""

    sample_steps: Annotated[int, Field(ge=0)] = Field(500, description="steps between sample videos; 0: none")
    sample_prompts: list[str] = Field([], description="prompts; none: validation captions")
    num_samples: Positive = Field(4, description="videos, where no prompts are given")
    max_preview_steps: Positive = Field(50, description="sampling steps of a sample video, at most")
    num_inference_steps: Positive | None = Field(None, description="sampling steps; none: 1000 for ddpm, else 50")
    guidance_scale: float = Field(3.0, description="classifier-free guidance of sample videos")
    guidance_interval: tuple[Level, Level] | None = Field(None, description="noise levels with guidance; none: all")
    scheduler: str | None = Field(None, description="sampler by name; none: the model's own")
    temperature: Annotated[float, Field(ge=0)] = Field(
        1.0, description="autoregressive: logits are divided by it; 0: the likeliest token"
    )
    top_k: Positive | None = Field(None, description="autoregressive: likeliest tokens that are drawn from; none: all")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="autoregressive: probability of the likeliest tokens that are drawn from; none: all"
    )
    sampling_shift: Annotated[float, Field(gt=0)] | None = Field(
        None, description="flow: shift of the sampler's steps; none: as trained"
    )


class TrackingConfig(Section):
    """Where figures go besides metrics.jsonl."""

    no_wandb: bool = Field(False, description="do not log to wandb, even where it is logged in")
    no_tensorboard: bool = Field(False, description="do not write TensorBoard files")
    project: str = Field("text2video", description="wandb project")
    log_steps: Positive = Field(10, description="steps between trackers' points; metrics.jsonl has every step")


def default_of(section: str, name: str, kind: str) -> Any:
    """What a field that the model decides is where a configuration does not say it, for a `model.kind`."""
    sections = {"model": ModelConfig, "text": TextConfig, "diffusion": DiffusionConfig, "preview": PreviewConfig}
    field = sections[section].model_fields[name]
    return DEFAULTS.get(kind, {}).get(name, field.get_default(call_default_factory=True))
