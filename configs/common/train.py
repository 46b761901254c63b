"""`train`: all plain values of a run. Keys are Detectron2's; the last group is ours."""

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
        gradient_as_bucket_view=False,  # True saves the memory of one copy of the gradients
    ),
    checkpointer=dict(period=5000, max_to_keep=100),  # iterations
    eval_period=5000,  # iterations
    log_period=20,  # iterations
    device="cuda",  # the CPU is used where there is no GPU
    seed=-1,  # negative: a random one, written to the log and the checkpoint
    float32_precision="highest",  # of matrix products; or "high" (TF32)
    # --- ours
    epochs=1.0,
    epoch_images=118_000,  # images of an epoch
    images_per_process=None,  # most of a process at once; the rest of its share is accumulated
    clip_grad_norm=0.0,  # L2 norm that gradients are clipped to; 0 does not clip
    # The rate follows the batch by this rule ("none", "linear" or "sqrt"); base_lr is the config's
    # optimizer.lr before overrides, filled in when the config is loaded.
    lr_scaling=dict(rule="none", base_batch_size=64, base_lr=None),
    ema=dict(enabled=False, decay=0.9998),  # average of the weights, evaluated in their place
    best_checkpoint=True,  # model_best.pth, kept beside checkpointer.max_to_keep
    early_stop=dict(patience=0),  # evaluations without a better AP before the run stops; 0 is off
    eval_precision=None,  # null (float32), or "bf16", "fp16"
    compile=False,  # trunk and neck by torch.compile
    writers=[],  # beside metrics.json and TensorBoard: "wandb", "trackio"
    allow_missing=[],  # patterns of tensors that init_checkpoint need not hold
    allow_unexpected=[],  # patterns of tensors of init_checkpoint that the model has not
    num_pictures=8,  # validation images drawn at the end, ground truth beside prediction
)
