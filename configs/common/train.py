"""What a run is, in plain values. Keys are Detectron2's; the last group is ours."""

train = dict(
    output_dir="./output",
    init_checkpoint="",  # weights to start from: a file of any public Hiera, or of this project
    max_iter="${iterations:${train.epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
    amp=dict(
        enabled=False,
        precision="bf16",  # or fp16 (CUDA only, with a loss scaler)
    ),
    ddp=dict(
        broadcast_buffers=False,
        find_unused_parameters=False,
        fp16_compression=False,
    ),
    checkpointer=dict(period=5000, max_to_keep=100),  # iterations
    eval_period=5000,  # iterations
    log_period=20,  # iterations
    device="cuda",  # the CPU is used where there is no GPU
    seed=-1,  # negative: a random one, written to the log and the checkpoint
    # --- ours
    epochs=1.0,
    epoch_images=118_000,  # images of an epoch
    clip_grad_norm=0.0,  # L2 norm that gradients are clipped to; 0 does not clip
    allow_missing=[],  # patterns of tensors that init_checkpoint need not hold
    allow_unexpected=[],  # patterns of tensors of init_checkpoint that the model has not
    num_pictures=8,  # validation images drawn at the end, ground truth beside prediction
)
