"""Lists the identifying elements that DICOM files carry: their names and counts, never a value.

The elements are the main ones of the Basic Application Level Confidentiality Profile (DICOM PS3.15, annex E, table
E.1-1). That none of them is there does not make a file anonymous: text may be burnt into the picture, and a head can be
recognised in a volume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from medsoft.data.dicom.header import open_dicom, word
from medsoft.errors import ReadError

IDENTIFYING = {
    "the patient": """PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex PatientAge
        OtherPatientIDs OtherPatientIDsSequence OtherPatientNames PatientBirthName PatientMotherBirthName PatientAddress
        PatientTelephoneNumbers PatientTelecomInformation PatientSize PatientWeight EthnicGroup Occupation
        AdditionalPatientHistory PatientComments MedicalRecordLocator MilitaryRank BranchOfService CountryOfResidence
        RegionOfResidence PatientReligiousPreference PregnancyStatus SmokingStatus MedicalAlerts Allergies
        LastMenstrualDate ResponsiblePerson ResponsibleOrganization InsurancePlanIdentification CurrentPatientLocation
        PatientState SpecialNeeds PatientInstitutionResidence""",
    "persons": """ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers
        ReferringPhysicianIdentificationSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence
        PerformingPhysicianName PerformingPhysicianIdentificationSequence NameOfPhysiciansReadingStudy OperatorsName
        OperatorIdentificationSequence RequestingPhysician ConsultingPhysicianName ScheduledPerformingPhysicianName
        PersonName PersonAddress PersonTelephoneNumbers PersonIdentificationCodeSequence ContentCreatorName
        VerifyingObserverName ReviewerName AuthorObserverSequence NamesOfIntendedRecipientsOfResults""",
    "numbers": """AccessionNumber StudyID AdmissionID IssuerOfAdmissionID RequestedProcedureID ScheduledProcedureStepID
        PerformedProcedureStepID RequestAttributesSequence PlacerOrderNumberImagingServiceRequest
        FillerOrderNumberImagingServiceRequest ServiceEpisodeID ReferencedPatientSequence ReferencedStudySequence""",
    "dates and times": """StudyDate StudyTime SeriesDate SeriesTime AcquisitionDate AcquisitionTime AcquisitionDateTime
        ContentDate ContentTime InstanceCreationDate InstanceCreationTime DateOfSecondaryCapture
        TimeOfSecondaryCapture PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        PerformedProcedureStepEndDate PerformedProcedureStepEndTime AdmittingDate AdmittingTime ScheduledStudyStartDate
        TimezoneOffsetFromUTC""",
    "places and devices": """InstitutionName InstitutionAddress InstitutionalDepartmentName InstitutionCodeSequence
        StationName PerformedStationName PerformedStationAETitle ScheduledStationName DeviceSerialNumber DeviceUID
        PlateID DetectorID CassetteID GantryID GeneratorID ProtocolName""",
    "free text": """StudyDescription SeriesDescription AdmittingDiagnosesDescription DerivationDescription ImageComments
        StudyComments RequestedProcedureDescription RequestedProcedureComments PerformedProcedureStepDescription
        CommentsOnThePerformedProcedureStep AcquisitionComments FrameComments ReasonForStudy
        ReasonForTheRequestedProcedure InterpretationText ClinicalTrialSubjectID ClinicalTrialSiteName
        GraphicAnnotationSequence TextValue""",
    "other": """IconImageSequence OriginalAttributesSequence ModifiedAttributesSequence EncryptedAttributesSequence
        DigitalSignaturesSequence StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID""",
}
KEYWORDS = {keyword: group for group, keywords in IDENTIFYING.items() for keyword in keywords.split()}
FLAGS = ("PatientIdentityRemoved", "BurnedInAnnotation", "RecognizableVisualFeatures")
"""What a file says of itself: YES or NO."""

PICTURES_WITH_TEXT = ("US", "SC", "OT", "ES", "XC")
"""Modalities whose pictures often hold a name: ultrasound, screen captures, endoscopy, photographs."""


@dataclass
class Carried:
    """What files carry.

    Attributes:
        files: how many were looked at.
        elements: keyword to the number of files in which it has a value, in sequences too.
        private: files with private elements, of which nobody knows what they hold.
        overlays: files with overlays, which may hold text.
        flags: flag and its value (YES, NO, not said) to the number of files.
        may_hold_text: files whose modality often has text in the picture and which do not say that there is none.
        failed: files that cannot be read.
    """

    files: int = 0
    elements: Counter[str] = field(default_factory=Counter)
    private: int = 0
    overlays: int = 0
    flags: Counter[tuple[str, str]] = field(default_factory=Counter)
    may_hold_text: int = 0
    failed: int = 0


def look_for_identifying(paths: Iterable[Path], progress: Callable[[], object]) -> Carried:
    """Look through the headers of files, sequences within included."""
    carried = Carried()
    for path in paths:
        try:
            _look(open_dicom(path, pixels=False), carried)
        except (ReadError, OSError):
            carried.failed += 1
        progress()
    return carried


def _look(header: Dataset, carried: Carried) -> None:
    carried.files += 1
    found, private = _elements(header)
    carried.elements.update(found)
    carried.private += private
    carried.overlays += any(0x6000 <= tag.group <= 0x60FF for tag in list(header.keys()))
    values = {flag: word(header, flag).upper() for flag in FLAGS}
    carried.flags.update((flag, value if value in ("YES", "NO") else "not said") for flag, value in values.items())
    captured = word(header, "Modality") in PICTURES_WITH_TEXT
    carried.may_hold_text += values["BurnedInAnnotation"] == "YES" or (
        captured and values["BurnedInAnnotation"] != "NO"
    )


def _elements(dataset: Dataset) -> tuple[set[str], bool]:
    """Keywords of identifying elements that have a value, and whether there are private ones."""
    found: set[str] = set()
    private = False
    for tag in list(dataset.keys()):
        if tag.is_private:
            private = True
            continue
        keyword = keyword_for_tag(tag)
        try:
            element = dataset[tag]
        except Exception:  # a value that cannot be converted is a value
            found |= {keyword} & KEYWORDS.keys()
            continue
        if keyword in KEYWORDS and not element.is_empty:
            found.add(keyword)
        if element.VR == "SQ":
            for item in element.value or []:
                more, inside = _elements(item)
                found |= more
                private |= inside
    return found, private
