"""Uploading to the Hugging Face Hub what is saved into folders."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_core.hub import refusal
from blip_core.hub.keywords import PUSH, SAVE, check_rest, read_keywords


class Shared:
    """What is saved into a folder and can be uploaded to the Hub: models, processors and their settings."""

    if TYPE_CHECKING:

        def save_pretrained(self, folder: str | Path, **keywords: Any) -> Any: ...

    def model_card(self, name: str, tags: Sequence[str] = ()) -> str | None:
        """Return the page of a new repository; None where there is nothing to say.

        Args:
            name: The repository.
            tags: Tags to add.

        Returns:
            Markdown, or None.
        """
        return None

    def push_to_hub(self, repo_id: str, **keywords: Any) -> Any:
        """Upload to the Hugging Face Hub what `save_pretrained` writes; models also a model card, if there is none.

        Args:
            repo_id: The repository, such as "me/my-captioner"; it is made if it does not exist.
            **keywords: `commit_message`, `private`, `token` and others of `KEYWORDS`, and those of
                `save_pretrained`.

        Returns:
            What the Hub says of the commit, with its `commit_url`.

        Raises:
            OSError: The Hub refuses, or cannot be reached.
            TypeError: A keyword is unknown.
        """
        given = read_keywords({"repo_id": repo_id, **keywords}, PUSH, hub=())
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **given.rest)
            return self._upload(Path(folder), given.own)

    def pushed(self, folder: str | Path, keywords: Mapping[str, Any]) -> None:
        """Upload a folder that was saved if the keywords of `save_pretrained` ask for it; refuse unknown ones."""
        given = read_keywords(keywords, PUSH, hub=())
        wanted = given.rest.pop("push_to_hub", False)
        check_rest(given.rest, ["push_to_hub"], "keyword of save_pretrained", SAVE, PUSH)
        if wanted:
            self._upload(Path(folder), {**given.own, "repo_id": given.own["repo_id"] or Path(folder).resolve().name})

    def _upload(self, folder: Path, options: dict[str, Any]) -> Any:
        from huggingface_hub import HfApi

        how = {name: options[name] for name in ("commit_message", "commit_description", "revision", "create_pr")}
        how["commit_message"] = how["commit_message"] or f"Upload {type(self).__name__}"
        try:
            api = HfApi(token=options["token"])
            repo_id = api.create_repo(options["repo_id"], private=options["private"], exist_ok=True).repo_id
            if how["revision"]:
                api.create_branch(repo_id, branch=how["revision"], exist_ok=True)
            card = self.model_card(repo_id, options["tags"] or ())
            if card and not (folder / "README.md").exists() and not api.file_exists(repo_id, "README.md"):
                (folder / "README.md").write_text(card, encoding="utf-8")
            return api.upload_folder(repo_id=repo_id, folder_path=folder, **how)
        except Exception as error:  # as in `resolve_folder`
            raise OSError(f"{options['repo_id']!r} {refusal(error, 'could not be uploaded to')}") from error
