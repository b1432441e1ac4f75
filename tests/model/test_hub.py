"""Whether published weights can be had, asked without downloading them: hubs and addresses that the test plays."""

import urllib.error

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from reid_core.config.parameters import ModelConfig
from reid_core.errors import UserError
from reid_core.model import hub
from reid_core.model.hub import check_weights

RESNET = "timm/resnet18.a1_in1k"


@pytest.fixture
def asked(monkeypatch):
    """A hub with some files, (repository, name); what was asked of it is noted."""

    def play(*there, answers=True):
        seen = []

        def download(repository, name, *, revision, dry_run):
            assert dry_run
            seen.append((repository, name, revision))
            if not answers:
                raise LocalEntryNotFoundError("no\nanswer")
            if (repository, name) not in there:
                raise EntryNotFoundError(f"{name} is not there")

        monkeypatch.setattr(hub, "hf_hub_download", download)
        return seen

    return play


def check(backbone, weights="pretrained"):
    check_weights(ModelConfig(backbone=backbone, weights=weights), 64)


def test_a_repository_is_asked_for_one_of_the_files_that_timm_takes(asked):
    seen = asked((RESNET, "pytorch_model.bin"))
    check("resnet18")
    assert seen == [(RESNET, "model.safetensors", None), (RESNET, "pytorch_model.bin", None)]
    seen = asked(("me/seals", "config.json"), ("me/seals", "model.safetensors"))
    check("hf-hub:me/seals@v2")
    assert seen == [("me/seals", "config.json", "v2"), ("me/seals", "model.safetensors", "v2")]
    check("no_such_net", weights="random")


def test_what_cannot_be_had_is_named_with_its_remedy(asked):
    seen = asked(answers=False)
    with pytest.raises(UserError, match=r"backbone=resnet18 cannot be had: no answer\. .*FILE\.safetensors or ran"):
        check("resnet18")
    assert len(seen) == 1  # a hub that does not answer is asked once
    asked()
    with pytest.raises(UserError, match=r"pytorch_model\.bin is not there"):
        check("resnet18")
    with pytest.raises(UserError, match=r"no_such_net has no pretrained weights"):
        check("no_such_net")


def test_weights_at_an_address_are_in_torch_hub_s_cache_or_there(monkeypatch, tmp_path):
    def refuse(request, timeout):
        assert request.get_method() == "HEAD"
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(hub.torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(hub.urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match="gcvit_xxtiny cannot be had: <urlopen error no network>"):
        check("gcvit_xxtiny")
    url = hub.timm.models.get_pretrained_cfg("gcvit_xxtiny").url
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / url.rsplit("/", 1)[1]).touch()
    check("gcvit_xxtiny")
