"""What must come of each of the 273 GitHub events, read off the events by a person.

`TOLD`: which rule tells whom, where. `NOBODY`: a rule wants the event, but there is nobody to be told.
`UNWANTED`: no rule wants the type; how many events there are of it.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """Events of one type that all have the same result; `ids` are the numbers behind `gh-`."""

    type: str
    ids: str
    workflow: str
    who: str
    where: str


TOLD = [
    # issues and discussions of Codertocat's own repository, which Codertocat opens and is assigned to
    Row("issues.opened", "98 99 100 101", "github-issue-opened", "Codertocat", "email webhook"),
    Row("issues.reopened", "103", "github-issue-reopened", "Codertocat", "email webhook"),
    Row("issues.assigned", "84 85 86", "github-issue-assigned", "Codertocat", "email web"),
    Row("issue_comment.created", "76 77 78 79", "github-issue-comment", "Codertocat", "email webhook"),
    Row("commit_comment.created", "25 26 27 28", "github-commit-comment", "Codertocat", "email"),
    Row("discussion.created", "48", "github-discussion", "Codertocat", "email"),
    Row("discussion.answered", "46", "github-discussion-answered", "Codertocat", "email web"),
    Row("discussion_comment.created", "60", "github-discussion-comment", "Codertocat", "email"),
    # pull requests: Codertocat owns and writes, octocat is asked for reviews
    Row("pull_request.opened", "179 180 181", "github-pull-request-opened", "Codertocat octocat",
        "email webhook"),
    Row("pull_request.ready_for_review", "182 183 184", "github-pull-request-ready", "octocat", "email web"),
    Row("pull_request.review_requested", "188", "github-review-requested", "octocat", "email web"),
    Row("pull_request.closed", "170 171", "github-pull-request-closed", "Codertocat", "email webhook"),
    Row("pull_request_review.submitted", "197 198", "github-review-submitted", "Codertocat", "email web"),
    Row("pull_request_review_comment.created", "199 200", "github-review-comment", "Codertocat", "email"),
    # code: a first commit; a release; a failed linter; deployments that ended
    Row("push", "208 209", "github-push", "Codertocat", "webhook"),
    Row("release.published", "221 222", "github-release", "Codertocat", "email webhook"),
    Row("check_run.completed", "4", "github-check-failed", "Codertocat", "email web"),
    Row("deployment_status.created", "44 45", "github-deployment", "Codertocat", "email webhook"),
    # security: in the express lane; three different owners
    Row("code_scanning_alert.created", "21", "github-code-scanning", "Codertocat", "email web webhook"),
    Row("code_scanning_alert.reopened", "23 24", "github-code-scanning", "Codertocat", "email web webhook"),
    Row("dependabot_alert.created", "36", "github-dependabot", "wolfy1339", "email web webhook"),
    Row("repository_vulnerability_alert.create", "238", "github-vulnerability", "Codertocat",
        "email web webhook"),
    Row("repository_vulnerability_alert.create", "239", "github-vulnerability", "Octocoders",
        "email web webhook"),
    Row("secret_scanning_alert.reopened", "241", "github-secret-scanning", "Codertocat", "email web webhook"),
    # people
    Row("member.added", "120 121", "github-member-added", "hacktocat", "email"),
    Row("sponsorship.created", "245", "github-sponsorship", "octocat", "email"),
    Row("star.created", "247", "github-star", "Codertocat", "web"),
    Row("fork", "63 64", "github-fork", "Codertocat", "web"),
]  # fmt: skip

NOBODY = {
    "a deleted tag is pushed without a commit": "205 206 207 210",
    "the check succeeded": "5 6",
    "the workflow succeeded": "269 270",
    "the deployment goes on": "43",
    "the code scanning alert is dismissed or fixed": "20 22",
    "a whole team is asked for the deployment's review": "42",
}

UNWANTED = {
    "branch_protection_rule.created": 2, "branch_protection_rule.deleted": 1,
    "branch_protection_rule.edited": 1,
    "check_run.created": 2, "check_run.requested_action": 1, "check_run.rerequested": 2,
    "check_suite.completed": 3, "check_suite.requested": 3, "check_suite.rerequested": 2,
    "create": 4, "delete": 3, "dependabot_alert.fixed": 1, "deploy_key.created": 1, "deployment.created": 3,
    "discussion.category_changed": 1, "discussion.edited": 2, "discussion.labeled": 2, "discussion.locked": 2,
    "discussion.pinned": 1, "discussion.transferred": 1, "discussion.unanswered": 1,
    "discussion.unlabeled": 1,
    "discussion.unlocked": 1, "discussion_comment.deleted": 1, "discussion_comment.edited": 1,
    "github_app_authorization.revoked": 1, "gollum": 2,
    "installation.created": 2, "installation.deleted": 1, "installation.new_permissions_accepted": 1,
    "installation.suspend": 1, "installation.unsuspend": 1,
    "installation_repositories.added": 1, "installation_repositories.removed": 1,
    "issue_comment.deleted": 2, "issue_comment.edited": 2,
    "issues.deleted": 1, "issues.demilestoned": 2, "issues.edited": 2, "issues.labeled": 2,
    "issues.locked": 2,
    "issues.milestoned": 2, "issues.pinned": 1, "issues.transferred": 1, "issues.unassigned": 2,
    "issues.unlabeled": 2, "issues.unlocked": 2, "issues.unpinned": 1,
    "label.created": 3, "label.deleted": 1, "label.edited": 1,
    "marketplace_purchase.cancelled": 1, "marketplace_purchase.changed": 1,
    "marketplace_purchase.purchased": 1,
    "member.edited": 1, "membership.added": 1, "membership.removed": 3,
    "merge_group.checks_requested": 1, "meta.deleted": 1,
    "milestone.closed": 2, "milestone.created": 1, "milestone.deleted": 1,
    "org_block.blocked": 2, "org_block.unblocked": 1,
    "organization.member_added": 2, "organization.member_invited": 1, "organization.renamed": 1,
    "package.published": 2, "page_build": 2, "ping": 3,
    "project.created": 2, "project_card.created": 4, "project_card.deleted": 3, "project_card.moved": 1,
    "project_column.created": 2, "project_column.edited": 1,
    "projects_v2_item.archived": 1, "projects_v2_item.converted": 1, "projects_v2_item.created": 1,
    "projects_v2_item.edited": 1, "projects_v2_item.reordered": 1, "projects_v2_item.restored": 1,
    "public": 2,
    "pull_request.assigned": 2, "pull_request.converted_to_draft": 3, "pull_request.labeled": 2,
    "pull_request.locked": 2, "pull_request.reopened": 2, "pull_request.review_request_removed": 1,
    "pull_request.synchronize": 1, "pull_request.unassigned": 2, "pull_request.unlabeled": 2,
    "pull_request.unlocked": 2, "pull_request_review.dismissed": 1,
    "pull_request_review_comment.deleted": 1, "pull_request_review_comment.edited": 1,
    "pull_request_review_thread.resolved": 1, "pull_request_review_thread.unresolved": 1,
    "registry_package.published": 1,
    "release.created": 3, "release.deleted": 2, "release.edited": 2, "release.prereleased": 2,
    "release.released": 1,
    "repository.created": 2, "repository.edited": 2, "repository.privatized": 2, "repository.publicized": 2,
    "repository.renamed": 1, "repository.transferred": 3, "repository_dispatch.on-demand-test": 1,
    "repository_import": 1, "repository_vulnerability_alert.dismiss": 1,
    "security_advisory.published": 1, "security_advisory.updated": 1, "security_advisory.withdrawn": 1,
    "sponsorship.pending_tier_change": 1, "star.deleted": 1, "status": 3,
    "team.added_to_repository": 1, "team.created": 1, "team.deleted": 1, "team.edited": 1,
    "team.removed_from_repository": 1, "team_add": 2, "watch.started": 2, "workflow_dispatch": 1,
    "workflow_job.completed": 2, "workflow_job.in_progress": 2, "workflow_job.queued": 2,
    "workflow_job.waiting": 1, "workflow_run.requested": 2,
}  # fmt: skip


def ids(numbers: str) -> list[str]:
    """Event ids of their numbers."""
    return [f"gh-{int(number):05d}" for number in numbers.split()]
