"""`data prepare` and `train --load_tensors` on the command line, with a YAML and with a model's folder."""

from text2video.data.cache import Cache


def test_a_yaml_says_what_to_prepare_and_a_run_takes_it(command, tiny):
    yaml, out = tiny / "tiny.yaml", "out"
    code, said, told = command("data", "prepare", tiny / "clips", out, "--model", yaml)
    assert (code, "6 clips are prepared, 0 left out" in said) == (0, True), told
    assert "6 clips and 0 texts to encode" in told
    assert "free" in told
    code, said, told = command("train", yaml, "--data_dir", "null", "--load_tensors", out, "--output_dir", "run")
    assert (code, said.strip()) == (0, "run/final"), told
    code, said, told = command("train", yaml, "--load_tensors", out, "--frame_size", "32", "--dry_run")
    assert code == 2
    assert "height is 32, prepared was 16" in told


def test_a_model_s_folder_says_it_too_and_given_options_are_laid_over(command, tiny):
    code, said, told = command("data", "prepare", tiny / "clips", "out", "--model", tiny / "run", "--frame_size", "32")
    assert code == 0, told
    settings = Cache.open("out").settings.shapes
    assert (settings["num_frames"], settings["height"], settings["width"]) == (8, 32, 32)
    flags = ("--init_from", tiny / "run", "--num_frames", "8", "--frame_size", "32")
    code, said, told = command("train", "--load_tensors", "out", *flags, "--dry_run")
    assert (code, "# video: [4, 3, 8, 32, 32]" in said) == (0, True), told


def test_errors_are_one_paragraph(command, tiny):
    code, said, told = command("data", "prepare", tiny / "clips", tiny / "clips")
    assert (code, said) == (1, "")
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert command("data", "prepare", tiny / "clips", "out", "--codec", "nowhere").code == 1
