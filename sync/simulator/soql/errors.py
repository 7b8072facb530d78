"""What Salesforce says about a query it refuses."""


class SoqlError(Exception):
    """A refused query: Salesforce's error code, its message, and where in the text the trouble is."""

    def __init__(self, code: str, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.position = position

    def text(self, soql: str) -> str:
        """The message as Salesforce prints it: the query near the trouble, a caret below, the reason."""
        if self.position is None:
            return self.message
        line_start = soql.rfind("\n", 0, self.position) + 1
        row = soql.count("\n", 0, self.position) + 1
        begin = max(line_start, self.position - 32)
        line_end = soql.find("\n", self.position)
        end = min(self.position + 32, len(soql) if line_end < 0 else line_end)
        caret = " " * (self.position - begin) + "^"
        column = self.position - line_start + 1
        return f"\n{soql[begin:end]}\n{caret}\nERROR at Row:{row}:Column:{column}\n{self.message}"


_HINT = "Please reference your WSDL or the describe call for the appropriate names."


def malformed(message: str, position: int | None = None) -> SoqlError:
    return SoqlError("MALFORMED_QUERY", message, position)


def invalid_field(message: str, position: int | None = None) -> SoqlError:
    return SoqlError("INVALID_FIELD", message, position)


def invalid_operator(message: str, position: int | None = None) -> SoqlError:
    return SoqlError("INVALID_QUERY_FILTER_OPERATOR", message, position)


def too_complicated() -> SoqlError:
    return SoqlError("QUERY_TOO_COMPLICATED", "The query is too deeply nested.")


def no_such_column(name: str, entity: str, position: int) -> SoqlError:
    return invalid_field(
        f"No such column '{name}' on entity '{entity}'. If you are attempting to use a custom field, "
        f"be sure to append the '__c' after the custom field name. {_HINT}",
        position,
    )


def no_such_relationship(name: str, position: int) -> SoqlError:
    return invalid_field(
        f"Didn't understand relationship '{name}' in field path. If you are attempting to use a custom "
        f"relationship, be sure to append the '__r' after the custom relationship name. {_HINT}",
        position,
    )


def no_such_object(name: str, position: int) -> SoqlError:
    return SoqlError(
        "INVALID_TYPE",
        f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to "
        f"append the '__c' after the entity name. {_HINT}",
        position,
    )
