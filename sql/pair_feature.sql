-- One content feature per pair of tonight: the embedding of its accepted reason, of its evidence, or of both, as $vector_of says
-- (pair_embedding.sql); `source` says which. `n_reasons` and `mean_score` are of the reason behind it: none where it is the
-- evidence's. A pair that nothing is said of has zeros ($zero_embedding, as wide as the encoder) and `missing` set.
with said_of as (
    select
        user_id,
        item_id,
        array_to_string(
            array_concat(make_array(subject), liked, attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'pair'
),
evidence as (
    select distinct user_id, item_id
    from said_of
    where said <> ''
),
accepted as (
    select
        s.user_id,
        s.item_id,
        count(*) as n_reasons,
        -- Summed as decimals, so that the order of the rows cannot change the last bit.
        sum(cast(least(greatest(s.score, -1e9), 1e9) as decimal(18, 8))) filter (where s.score is not null) as score_sum,
        count(s.score) as n_scores
    from reason_score as s
    left anti join (select user_id, item_id from evidence where $vector_of = 'evidence') as e
        on e.user_id = s.user_id and e.item_id = s.item_id
    where s.kind = 'pair' and s.accepted
    group by s.user_id, s.item_id
),
-- As pair_embedding.sql names a pair.
asked as (
    select
        user_id,
        item_id,
        concat(cast(character_length(user_id) as varchar), ':', user_id, item_id) as entity_id
    from reason_prompt
    where kind = 'pair'
),
found as (
    select
        t.user_id,
        t.item_id,
        a.n_reasons,
        a.score_sum,
        a.n_scores,
        p.embedding,
        case when a.n_reasons is null then 'evidence' when e.item_id is null then 'reason' else 'both' end as source
    from pair_embedding as p
    join asked as t on t.entity_id = p.entity_id
    left join accepted as a on a.user_id = t.user_id and a.item_id = t.item_id
    left join (select user_id, item_id from evidence where $vector_of = 'both') as e
        on e.user_id = t.user_id and e.item_id = t.item_id
    where p.embedding is not null
)
select
    cast(t.user_id as varchar) as user_id,
    cast(t.item_id as varchar) as item_id,
    $as_of as event_timestamp,
    $interval_end as created_timestamp,
    case when f.item_id is not null then f.embedding else $zero_embedding end as embedding,
    cast(coalesce(f.n_reasons, 0) as integer) as n_reasons,
    cast(case when f.n_scores > 0 then cast(f.score_sum as double) / cast(f.n_scores as double) end as float)
        as mean_score,
    f.item_id is null as missing,
    cast(coalesce(f.source, 'none') as varchar) as source
from asked as t
left join found as f on f.user_id = t.user_id and f.item_id = t.item_id
order by user_id, item_id
