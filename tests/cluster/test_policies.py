"""The policies for AWS, evaluated: what the head and the workers may do, and what is refused.

moto's evaluator ignores conditions, on which these policies rest.
"""

import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

REGION, BUCKET = "eu-central-1", "hospital-videos"
EC2 = f"arn:aws:ec2:{REGION}:111122223333"
OWN = {"aws:ResourceTag/ray-cluster-name": "ophnet"}
OTHERS = {"aws:ResourceTag/ray-cluster-name": "payroll"}
TO_EC2 = {"iam:PassedToService": "ec2.amazonaws.com"}


@dataclass(frozen=True)
class Request:
    """A request to AWS: its action, the resource, and the keys that conditions ask for."""

    action: str
    resource: str = "*"
    keys: dict = field(default_factory=dict)

    def __str__(self):
        keys = ", ".join(f"{name.rpartition('/')[2]} {value}" for name, value in self.keys.items())
        return f"{self.action} on {self.resource.rpartition(':')[2]} {keys}".strip()


def read_policy(name):
    text = (ROOT / "cluster" / name).read_text()
    policy = json.loads(text.replace("YOUR-BUCKET", BUCKET).replace("YOUR-REGION", REGION))
    assert {statement["Effect"] for statement in policy["Statement"]} <= {"Allow", "Deny"}
    return policy["Statement"]


def as_list(value):
    return value if isinstance(value, list) else [value]


def applies(statement, request):
    """Evaluate a statement as IAM does; an element that this function does not know is an error."""
    assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
    actions = [each.lower() for each in as_list(statement["Action"])]
    if not any(fnmatchcase(request.action.lower(), each) for each in actions):
        return False
    if not any(fnmatchcase(request.resource, each) for each in as_list(statement["Resource"])):
        return False
    matches = {"StringEquals": str.__eq__, "StringLike": fnmatchcase}
    return all(
        name in request.keys
        and any(matches[operator](request.keys[name], value) for value in as_list(wanted))
        for operator, conditions in statement.get("Condition", {}).items()
        for name, wanted in conditions.items()
    )


def is_allowed(policies, request):
    effects = {
        statement["Effect"]
        for name in policies
        for statement in read_policy(name)
        if applies(statement, request)
    }
    return effects == {"Allow"}


HEAD, WORKER = ("head-policy.json", "s3-policy.json"), ("s3-policy.json",)


def launch(kind="g6.2xlarge", region=REGION, cluster="ophnet"):
    """The requests of one RunInstances, as Ray's autoscaler tags it: AWS asks for each resource."""
    where = {"aws:RequestedRegion": region}
    machine = {"ec2:InstanceType": kind, "aws:RequestTag/ray-cluster-name": cluster}
    parts = (
        "key-pair/k", "network-interface/n", "security-group/sg-1", "spot-instances-request/r",
        "subnet/subnet-1", "volume/v",
    )  # fmt: skip
    return [
        Request("ec2:RunInstances", f"{EC2}:instance/i-0", where | machine),
        Request("ec2:RunInstances", f"arn:aws:ec2:{region}::image/ami-1", where),
        *(Request("ec2:RunInstances", f"{EC2}:{part}", where) for part in parts),
    ]


RUN = [
    Request("s3:GetObject", f"arn:aws:s3:::{BUCKET}/data/case.mp4"),
    Request("s3:GetObject", f"arn:aws:s3:::{BUCKET}/ophnet/runs/run/config.yaml"),
    Request("s3:PutObject", f"arn:aws:s3:::{BUCKET}/ophnet/runs/run/.lock/00000001"),
    Request("s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/ophnet/runs/run/checkpoints/a"),
    Request("s3:AbortMultipartUpload", f"arn:aws:s3:::{BUCKET}/ophnet/cache/shard"),
    Request("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "ophnet/runs/run/"}),
    Request("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "data"}),
]
AUTOSCALER = [
    Request("ec2:DescribeInstances"),
    Request("ec2:DescribeSubnets"),
    Request("iam:GetInstanceProfile", "arn:aws:iam::111122223333:instance-profile/ophnet-worker"),
    *launch(),
    Request("iam:PassRole", "arn:aws:iam::111122223333:role/ophnet-worker", TO_EC2),
    Request("ec2:CreateTags", f"{EC2}:instance/i-0", {"ec2:CreateAction": "RunInstances"}),
    Request("ec2:CreateTags", f"{EC2}:volume/v", {"ec2:CreateAction": "RunInstances"}),
    Request("ec2:CreateTags", f"{EC2}:instance/i-0", OWN),
    Request("ec2:TerminateInstances", f"{EC2}:instance/i-0", OWN),
]
NOBODY = [
    Request("s3:GetObject", "arn:aws:s3:::payroll/data/table.csv"),
    Request("s3:GetObject", f"arn:aws:s3:::{BUCKET}/other/case.mp4"),
    Request("s3:PutObject", f"arn:aws:s3:::{BUCKET}/data/case.mp4"),
    Request("s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/data/case.mp4"),
    Request("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "other/"}),
    Request("s3:ListBucket", f"arn:aws:s3:::{BUCKET}"),
    Request("s3:ListBucket", "arn:aws:s3:::payroll", {"s3:prefix": "data"}),
    Request("s3:ListAllMyBuckets"),
    Request("s3:PutBucketPolicy", f"arn:aws:s3:::{BUCKET}"),
    Request("s3:PutObjectAcl", f"arn:aws:s3:::{BUCKET}/ophnet/runs/run/model.ckpt"),
    Request("s3:DeleteBucket", f"arn:aws:s3:::{BUCKET}"),
    launch("p5.48xlarge")[0],
    launch(cluster="payroll")[0],
    launch(region="us-east-1")[0],
    launch(region="us-east-1")[2],
    Request("ec2:RunInstances", f"{EC2}:launch-template/lt-1", {"aws:RequestedRegion": REGION}),
    Request("ec2:TerminateInstances", f"{EC2}:instance/i-9", OTHERS),
    Request("ec2:TerminateInstances", f"{EC2}:instance/i-9"),
    Request("ec2:CreateTags", f"{EC2}:instance/i-9", OTHERS),
    Request("ec2:CreateTags", f"{EC2}:instance/i-9"),
    Request("ec2:CreateTags", f"{EC2}:instance/i-9", {"ec2:CreateAction": "CreateVolume"}),
    Request("ec2:DeleteTags", f"{EC2}:instance/i-0", OWN),
    Request("ec2:StopInstances", f"{EC2}:instance/i-0", OWN),
    Request("ec2:ModifyInstanceAttribute", f"{EC2}:instance/i-0", OWN),
    Request("ec2:AssociateIamInstanceProfile", f"{EC2}:instance/i-0", OWN),
    Request("ec2:CreateSecurityGroup", f"{EC2}:security-group/sg-1"),
    Request("ec2:AuthorizeSecurityGroupIngress", f"{EC2}:security-group/sg-1"),
    Request("ec2:CreateKeyPair", f"{EC2}:key-pair/k"),
    Request("ec2:GetPasswordData", f"{EC2}:instance/i-0", OWN),
    Request("iam:PassRole", "arn:aws:iam::111122223333:role/admin", TO_EC2),
    Request("iam:PassRole", "arn:aws:iam::111122223333:role/ophnet-head", TO_EC2),
    Request("iam:PassRole", "arn:aws:iam::111122223333:role/ophnet-worker-admin", TO_EC2),
    Request(
        "iam:PassRole",
        "arn:aws:iam::111122223333:role/ophnet-worker",
        {"iam:PassedToService": "lambda.amazonaws.com"},
    ),
    Request("iam:PassRole", "arn:aws:iam::111122223333:role/ophnet-worker"),
    Request("iam:CreateRole", "arn:aws:iam::111122223333:role/new"),
    Request("iam:PutRolePolicy", "arn:aws:iam::111122223333:role/ophnet-head"),
    Request("iam:AddRoleToInstanceProfile", "arn:aws:iam::111122223333:instance-profile/i"),
    Request("sts:AssumeRole", "arn:aws:iam::111122223333:role/admin"),
    Request("ssm:SendCommand", f"{EC2}:instance/i-0", OWN),
    Request("secretsmanager:GetSecretValue", "arn:aws:secretsmanager:eu:111122223333:secret:s"),
]


@pytest.mark.parametrize("request_", [*AUTOSCALER, *RUN], ids=str)
def test_the_head_may_do_what_the_autoscaler_and_a_run_need(request_):
    assert is_allowed(HEAD, request_)


@pytest.mark.parametrize("request_", RUN, ids=str)
def test_a_worker_may_do_what_a_run_needs(request_):
    assert is_allowed(WORKER, request_)


@pytest.mark.parametrize("request_", NOBODY, ids=str)
def test_the_head_may_do_nothing_else(request_):
    assert not is_allowed(HEAD, request_)


@pytest.mark.parametrize("request_", [*AUTOSCALER, *NOBODY], ids=str)
def test_a_worker_may_do_nothing_else(request_):
    assert not is_allowed(WORKER, request_)
