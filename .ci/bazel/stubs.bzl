"""Stand-ins for the repositories that Bazel 2.1.0 and our BUILD files name, so that nothing is downloaded."""

def _stub_repository(ctx):
    for path, content in ctx.attr.files.items():
        ctx.file(path, content)

stub_repository = repository_rule(_stub_repository, attrs = {"files": attr.string_dict()})

def native_rules(language, rules):
    """Declares @rules_<language>, whose //<language>:defs.bzl offers rules that Bazel 2.1.0 still has built in."""
    stub_repository(
        name = "rules_" + language,
        files = {
            language + "/BUILD": "",
            language + "/defs.bzl": "".join(["{0} = native.{0}\n".format(rule) for rule in rules]),
        },
    )

def _installed_packages(ctx):
    names = ctx.read(ctx.path(ctx.attr.names)).splitlines()
    targets = ['py_library(name = "%s", visibility = ["//visibility:public"])\n' % name for name in names]
    ctx.file("BUILD", "".join(targets))
    ctx.file("requirements.bzl", 'def requirement(name):\n    return "@pypi//:" + name\n')

# The packages themselves come from the environment of the `python` on PATH: the targets are empty.
installed_packages = repository_rule(
    _installed_packages,
    attrs = {"names": attr.label(doc = "A file with one distribution's name a line.")},
)
